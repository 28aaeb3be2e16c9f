"""Texts that run a script where they get onto a page unescaped.

Each says which one it is, so that a test can tell what got through. Most need no more than to be
there; some need a renderer that unescapes a second time, expands templates or reads Markdown.
"""

from __future__ import annotations

from playwright.sync_api import Page

_PWN = "(window.__pwned??=[]).push({})"

_TEMPLATES = [
    # A script of its own.
    "<script>{}</script>",
    "<ScRiPt >{}</sCrIpT>",
    "<script\n>{}</script\t>",
    "<script/x>{}</script>",
    "<svg><script>{}</script></svg>",
    "<script src='data:text/javascript,{}'></script>",
    "<script type=module>{}</script>",
    # An element that runs a handler without anybody's doing.
    "<img src=x onerror={}>",
    "<img src=x onerror='{}'>",
    '<img src=x onerror="{}">',
    "<IMG SRC=x OnErRoR={}>",
    "<img/src=x/onerror={}>",
    "<img\nsrc=x\nonerror={}\n>",
    "<img src=x\x0conerror={}>",
    "<img src onerror={}>",
    "<img srcset=x onerror={}>",
    "<image src=x onerror={}>",
    "<svg onload={}>",
    "<svg/onload={}>",
    "<svg><image href=x onerror={}></svg>",
    "<svg><animate onbegin={} attributeName=x dur=1s></svg>",
    "<svg><set onbegin={} attributeName=x></svg>",
    "<svg><style onload={}></style></svg>",
    "<style onload={}></style>",
    "<link rel=stylesheet href='data:text/css,' onload={}>",
    "<iframe onload={}></iframe>",
    "<iframe srcdoc='<script>parent.eval(`{}`)</script>'></iframe>",
    '<iframe srcdoc="&lt;script&gt;parent.eval(`{}`)&lt;/script&gt;"></iframe>',
    "<iframe src='javascript:parent.eval(`{}`)'></iframe>",
    "<object data=x onerror={}></object>",
    "<embed src='javascript:{}'>",
    "<video src=x onerror={}></video>",
    "<video><source onerror={}></video>",
    "<audio src=x onerror={}></audio>",
    "<details open ontoggle={}>x</details>",
    "<input autofocus onfocus={}>",
    "<input type=image src=x onerror={}>",
    "<select autofocus onfocus={}></select>",
    "<textarea autofocus onfocus={}></textarea>",
    "<button autofocus onfocus={}>x</button>",
    "<div tabindex=1 autofocus onfocus={}>x</div>",
    "<xss contenteditable autofocus onfocus={}>x</xss>",
    "<marquee onstart={}>x</marquee>",
    "<body onload={}>",
    "<body onpageshow={}>",
    "<style>@keyframes x{{}}</style><b style='animation-name:x' onanimationstart={}>x</b>",
    "<b style='animation:jp-x 1s' onanimationend={}>x</b><style>@keyframes jp-x{{}}</style>",
    # Out of what it stands in.
    "</td></tr></table><img src=x onerror={}>",
    "</style><img src=x onerror={}>",
    "</script><img src=x onerror={}>",
    "</textarea><img src=x onerror={}>",
    "</title><img src=x onerror={}>",
    "</pre></code><img src=x onerror={}>",
    "--><img src=x onerror={}>",
    "--!><img src=x onerror={}>",
    "<!--><img src=x onerror={}>",
    "]]><img src=x onerror={}>",
    "<![CDATA[><img src=x onerror={}>",
    "<noscript><p title='</noscript><img src=x onerror={}>'>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror={}&gt;'>",
    "<template><s></template><img src=x onerror={}>",
    "<svg></p><style><a id='</style><img src=x onerror={}>'>",
    # Out of an attribute.
    '"><img src=x onerror={}>',
    "'><img src=x onerror={}>",
    "`><img src=x onerror={}>",
    '" autofocus tabindex=1 onfocus={} x="',
    "' autofocus tabindex=1 onfocus={} x='",
    " autofocus tabindex=1 onfocus={} ",
    '" style="animation-name:x" onanimationstart="{}',
    '\\"><img src=x onerror={}>',
    # For a renderer that unescapes, expands or typesets once too often.
    "&lt;img src=x onerror={}&gt;",
    "&amp;lt;img src=x onerror={}&amp;gt;",
    "&#60;img src=x onerror={}&#62;",
    "&#x3c;img src=x onerror={}&#x3e;",
    "\\u003cimg src=x onerror={}\\u003e",
    "\\x3cimg src=x onerror={}\\x3e",
    "%3Cimg src=x onerror={}%3E",
    "＜img src=x onerror={}＞",
    "${{{}}}",
    "`;{};`",
    "';{};'",
    '";{};"',
    "{{{{constructor.constructor('{}')()}}}}",
    '![x](x"onerror="{})',
    "[x](javascript:{})",
    "<javascript:{}>",
    "<a href='javascript:{}'>x</a>",
    "<form action='javascript:{}'><button>x</button></form>",
    "$\\href{{javascript:{}}}{{x}}$",
    '$$\\class{{x" onmouseover="{}}}{{x}}$$',
    "\\(\\style{{x}}{{<img src=x onerror={}>}}\\)",
    "\x1b]8;;javascript:{}\x07x\x1b]8;;\x07",
    "\x1b[31m<img src=x onerror={}>\x1b[0m",
    # Among what hides or reorders.
    "\u202e<img src=x onerror={}>",
    "\u2066<img src=x onerror={}>\u2069",
    "<img\x00 src=x onerror={}>",
    "\x00<img src=x onerror={}>",
    "\ud800<img src=x onerror={}>",
    "\ufeff<img src=x onerror={}>",
    "\r\n<img src=x onerror={}>",
    "\u2028<img src=x onerror={}>",
    "x" * 10_000 + "<img src=x onerror={}>",
    "<img src=x onerror={} title=" + "x" * 10_000 + ">",
]

PAYLOADS = [template.format(_PWN.format(number)) for number, template in enumerate(_TEMPLATES)]


def fired(page: Page) -> set[int]:
    """The numbers of the payloads that have run on a page, after everything on it has had its time to run."""
    page.evaluate(
        """() => new Promise(done => {
            const last = new Image();  // what was to be loaded before it has failed before it
            last.onerror = () => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100)));
            last.src = 'data:image/png,none';
        })"""
    )
    return set(page.evaluate("window.__pwned ?? []"))
