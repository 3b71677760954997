"""What class of device uap-core's test cases are, told by maker and model alone: what Carat's reading is held against.

The cases give family, brand and model of a device, not its class. It is told here by what makers make and call their
devices, without a look at the user agent, so that a rule for user agents is no measure of itself. A case of a maker of
several kinds whose model tells nothing is of no class and not counted; the same goes for watches, consoles in the hand,
car kits, cameras and for what uap-core calls Other or Generic_Android.
"""

import re

_TV = re.compile(
    r"(?i)hbbtv|netcast|inettv|chromecast|apple ?tv|bravia|smart-?tv|google ?tv|\broku\b|\baft[a-z]+\b|fire tv|shield"
    r"|xbox|playstation [345]|nintendo wii|mi ?box|set-?top|\btv\b"
)
_TABLET = re.compile(
    r"(?i)\bipad|\bkindle|\bnook|tablet|\btab\b|tab[ _-]?[0-9]|(?<![a-z])(?:media|smart|view|memo|idea|mate|mi|e|a|one ?touch )?[ -]?pad"
    r"(?![a-z])|xoom|playbook|touchpad|nexus[ _](?:7|9|10)|pixel c\b|flyer|iconia|transformer|\bTF[0-9]{3}|SM-[TP][0-9]"
    r"|GT-P[0-9]|GT-N(?:80|51)|SGP[0-9]{3}|LG-V[0-9]{3}|\bslate|venue [78]|streak 7|thinkpad tab|folio|SHW-M(?:180|380)"
    r"|SCH-I800|SGH-[IT](?:987|849|859)|SPH-P100"
)
_PHONE = re.compile(
    r"(?i)^iphone|^ipod|smartphone|feature phone|lumia|galaxy (?:s|note|ace|y|nexus)\b|nexus (?:one|s|4|5|6)\b|pixel [0-9]|xperia"
    r"|^(?:samsung )?(?:GT-[BCEIMS][0-9]|SGH-|SPH-|SCH-|SHV-|SHW-M|SM-[GANJCE][0-9])"
)
# Makers of nothing but phones, at the time of these user agents, save for the models that are named above.
_PHONE_MAKERS = {
    "Nokia", "HTC", "SonyEricsson", "Sony Ericsson", "Siemens", "DoCoMo", "BlackBerry", "Micromax", "imobile", "Fly", "Celkon",
    "Kyocera", "Gionee", "Oppo", "vivo", "OnePlus", "Spice", "Karbonn", "Lava", "Xolo", "Tecno", "Wiko", "Zopo", "Thl",
    "Pantech", "Sharp", "Palm", "Sagem", "i-mate", "Ktouch", "Bird", "Amoi", "Qmobile", "Blu", "Jiayu", "Cubot", "Walton",
    "Gfive", "MyPhone", "Cloudfone", "IMO", "Intex", "Maxx", "Lemon", "Videocon", "Sprint", "Cat", "Mobistel", "Tooky",
    "DOOV", "Xianghe", "Vodafone", "KTtech", "bq", "Allview", "Casio", "Nec", "Doro", "Benefon", "Vertu", "Meizu", "Umeox",
    "Simvalley", "Hero", "Jolla", "Fairphone",
}  # fmt: skip
# Makers of nothing but tablets, at that time.
_TABLET_MAKERS = {
    "CobyKyros", "Ainol", "Yarvik", "Mpman", "Ployer", "Yifang", "Airis", "Nextbook", "Denver", "Trekstor", "Woxter",
    "Aoson", "Pipo", "Xoro", "Arnova", "Jaytech", "Lenco", "Nook", "Lexibook", "SmartQ", "Blaupunkt",
    "Captiva", "ionik", "Modecom", "Versus", "Visture", "Zenithink", "Barnes & Noble",
}  # fmt: skip
# Makers of both whose phones and tablets the names above tell apart.
_NAMED = {"Samsung", "samsung", "LG", "Motorola", "Apple", "Amazon", "Google"}
_OTHER = {"Apple Watch", "Nintendo DS", "Nintendo 3DS", "PlayStation Portable", "PlayStation Vita", "Quest"}


def class_of(family: str, brand: str | None, model: str | None) -> str | None:  # noqa: PLR0911  one case each
    """mobile, tablet, tv, desktop or bot; None where maker and model do not tell."""
    name = f"{family} {model or ''}"
    if family == "Spider":
        return "bot"
    if family == "Mac":
        return "desktop"
    if family in _OTHER or family.startswith(("Nintendo D", "Nintendo 3", "PlayStation P", "PlayStation V")):
        return None
    if _TV.search(name) or brand == "Generic_Inettv":
        return "tv"
    if _TABLET.search(name) or brand in _TABLET_MAKERS:
        return "tablet"
    if _PHONE.search(name) or _PHONE.search(model or "") or brand in _PHONE_MAKERS:
        return "mobile"
    return "mobile" if brand in _NAMED else None


_BROWSERS = {
    "AOL", "Amazon Silk", "Android", "BOLT", "Barca", "Basilisk", "BlackBerry WebKit", "Brave", "Bunjalloo", "Camoufox", "Chrome",
    "Chrome Frame", "Chrome Mobile", "Chrome Mobile WebView", "Chrome Mobile iOS", "Chromium", "Coc Coc", "Comodo Dragon",
    "Conkeror", "Crosswalk", "Dolfin", "Dolphin", "Dragon", "DuckDuckGo", "DuckDuckGo Mobile", "Ecosia Android", "Ecosia iOS",
    "Edge", "Edge Mobile", "Espial", "Facebook", "Firefox", "Firefox (Shiretoko)", "Firefox Beta", "Firefox Mobile", "Firefox iOS",
    "Flipboard", "Google", "IE", "IE Large Screen", "IE Mobile", "IceCat", "Instagram", "Iron", "KakaoTalk", "Kindle", "Konqueror",
    "LINE", "Ladybird", "LuaKit", "Maxthon", "Midori", "Minimo", "Mobile Safari", "Mobile Safari UI/WKWebView",
    "MozillaDeveloperPreview", "NCSA Mosaic", "NetFront", "NetFront NX", "Obigo", "Odin", "Openwave", "Opera", "Opera Coast",
    "Opera GX", "Opera Mini", "Opera Mobile", "Opera Neon", "Opera Tablet", "Opera Touch", "Otter", "Pale Moon", "Phantom",
    "Planetweb", "Puffin", "Quark", "Quark PC", "QupZilla", "Rekonq", "RockMelt", "Safari", "Samsung Internet", "Skyfire",
    "Sleipnir", "Snapchat", "Snowshoe", "TikTok", "Twitter", "UP.Browser", "Vivaldi", "VivoBrowser", "Waterfox", "WebKit Nightly",
    "Whale", "MiuiBrowser", "MullvadBrowser", "qutebrowser", "Seznam prohlížeč", "Steam Deck", "QtCarBrowser", "Nokia OSS Browser",
    "mDolphin", "Weibo", "NetCast Smart TV", "HbbTV", "Roku", "Fluid",
}  # fmt: skip
_NO_BROWSER = {"S3 Browser"}


def is_browser(family: str) -> bool:
    """Whether what uap-core calls a user agent so is a browser that people look at pages with."""
    return family in _BROWSERS or (
        family.endswith(("Browser", "Browser Mobile", "Browser Mini")) and family not in _NO_BROWSER
    )
