"""
Phones: digits of a number with the country code in front, as Meta wants them.

    +44 (0)20 7946 0018    00442079460018    020 7946 0018 in gb   ─▶   442079460018

A number without + or 00 is one of the person's country; without a country nothing is made of it:
a wrong country code would make it somebody else's.

Shapes   countries as ISO 3166-1 in lower case; numbers as digits only, no leading zeros.
Errors   none: what is no number, or of an unknown country, is left out.
Source   ITU-T E.164 and its list of country codes; lengths from the national numbering plans
"""

import re
import unicodedata
from typing import Final

DIGITS_MIN, DIGITS_MAX = 7, 15  # of a number with its country code; E.164 has the latter

_CODES_TEXT = """
1 us ca ag ai as bb bm bs dm do gd gu jm kn ky lc mp ms pr sx tc tt vc vg vi
7 ru kz   20 eg  27 za  30 gr  31 nl  32 be  33 fr  34 es  36 hu  39 it va  40 ro  41 ch  43 at
44 gb gg im je  45 dk  46 se  47 no sj  48 pl  49 de  51 pe  52 mx  53 cu  54 ar  55 br  56 cl
57 co  58 ve  60 my  61 au cc cx  62 id  63 ph  64 nz  65 sg  66 th  81 jp  82 kr  84 vn  86 cn
90 tr  91 in  92 pk  93 af  94 lk  95 mm  98 ir  211 ss  212 ma eh  213 dz  216 tn  218 ly
220 gm  221 sn  222 mr  223 ml  224 gn  225 ci  226 bf  227 ne  228 tg  229 bj  230 mu  231 lr
232 sl  233 gh  234 ng  235 td  236 cf  237 cm  238 cv  239 st  240 gq  241 ga  242 cg  243 cd
244 ao  245 gw  246 io  248 sc  249 sd  250 rw  251 et  252 so  253 dj  254 ke  255 tz  256 ug
257 bi  258 mz  260 zm  261 mg  262 re yt  263 zw  264 na  265 mw  266 ls  267 bw  268 sz  269 km
290 sh  291 er  297 aw  298 fo  299 gl  350 gi  351 pt  352 lu  353 ie  354 is  355 al  356 mt
357 cy  358 fi ax  359 bg  370 lt  371 lv  372 ee  373 md  374 am  375 by  376 ad  377 mc  378 sm
380 ua  381 rs  382 me  383 xk  385 hr  386 si  387 ba  389 mk  420 cz  421 sk  423 li  500 fk
501 bz  502 gt  503 sv  504 hn  505 ni  506 cr  507 pa  508 pm  509 ht  590 gp bl mf  591 bo
592 gy  593 ec  594 gf  595 py  596 mq  597 sr  598 uy  599 cw bq  670 tl  672 nf  673 bn  674 nr
675 pg  676 to  677 sb  678 vu  679 fj  680 pw  681 wf  682 ck  683 nu  685 ws  686 ki  687 nc
688 tv  689 pf  690 tk  691 fm  692 mh  850 kp  852 hk  853 mo  855 kh  856 la  880 bd  886 tw
960 mv  961 lb  962 jo  963 sy  964 iq  965 kw  966 sa  967 ye  968 om  970 ps  971 ae  972 il
973 bh  974 qa  975 bt  976 mn  977 np  992 tj  993 tm  994 az  995 ge  996 kg  998 uz
"""

# Digits of a number inside its country, without the zero that is dialled in front of it, where
# that tells whether a number already has the country code: 9198765432 is one of India.
_LENGTHS_TEXT = """
kw 8 8  qa 8 8  bh 8 8  om 8 8  dk 8 8  no 8 8  sj 8 8  sg 8 8  hk 8 8  mo 8 8  lv 8 8  mt 8 8
cy 8 8  gt 8 8  sv 8 8  hn 8 8  ni 8 8  cr 8 8  bo 8 8  tn 8 8  ee 7 8  lt 8 8  is 7 7  li 7 7
es 9 9  pt 9 9  pl 9 9  cz 9 9  sk 9 9  fr 9 9  ch 9 9  nl 9 9  ro 9 9  au 9 9  za 9 9  ua 9 9
ke 9 9  sn 9 9  cm 9 9  cl 9 9  be 8 9  se 7 9  hu 8 9  il 8 9  th 8 9  jp 9 10  br 10 11  it 6 11
va 6 11  gr 10 10  mx 10 10  co 10 10  in 10 10  tr 10 10  ph 10 10  pk 10 10  bd 10 10  ru 10 10
kz 10 10  ci 10 10  cn 10 11  by 9 9
"""


def _codes(text: str) -> dict[str, str]:
    found, code = {}, ""
    for word in text.split():
        if word.isdecimal():
            code = word
        else:
            found[word] = code
    return found


def _lengths(text: str) -> dict[str, tuple[int, int]]:
    words = text.split()
    return {words[i]: (int(words[i + 1]), int(words[i + 2])) for i in range(0, len(words), 3)}


_CODES: Final = _codes(_CODES_TEXT)
_LENGTHS: Final = _lengths(_LENGTHS_TEXT)
_TRUNKS: Final = {
    "hu": "06",
    "ru": "8",
    "kz": "8",
    "by": "80",
}  # what is dialled in front, where it is no 0
_ZERO_STAYS: Final = {"it", "va", "sm"}

_EXTENSION = re.compile(r"\s*(?:ext|x|#|;|,).*", re.IGNORECASE | re.DOTALL)


def country_codes() -> frozenset[str]:
    """The countries whose numbers are known."""
    return frozenset(_CODES)


def international(text: str, country: str | None) -> str | None:
    """The digits of the phone number *text* of *country*, country code first."""
    text = _EXTENSION.sub("", text.strip().lower().removeprefix("tel:"))
    digits = "".join(str(d) for c in text if (d := unicodedata.decimal(c, None)) is not None)
    if text.lstrip(" (").startswith(("+", "＋")):
        digits = _without_trunk(text)
    elif not digits.startswith("00"):
        found = _national(digits, country)
        digits = found if found is not None else ""
    digits = digits.lstrip("0")
    return digits if DIGITS_MIN <= len(digits) <= DIGITS_MAX else None


def _without_trunk(text: str) -> str:
    """Digits without the zero in brackets of +44 (0)20."""
    shown = text.replace("(0)", "")
    return "".join(str(d) for c in shown if (d := unicodedata.decimal(c, None)) is not None)


def _national(digits: str, country: str | None) -> str | None:
    code = _CODES.get(country or "")
    if code is None or country is None:
        return None
    if code == "1":
        if digits.startswith("011"):  # what is dialled there for +
            return digits[3:]
        return digits if len(digits) == 11 and digits[0] == "1" else _fitting(digits, 10, "1")
    trunk = _TRUNKS.get(country, "0")
    if country in _ZERO_STAYS:
        inner = digits
    else:
        inner = digits.removeprefix(trunk)
        if country in _TRUNKS and len(inner) < _LENGTHS[country][0]:
            inner = digits  # an 8 that belongs to the number
    if inner != digits:
        return code + inner
    shortest, longest = _LENGTHS.get(country, (0, 0))
    if longest and shortest <= len(digits) <= longest:
        return code + digits
    if digits.startswith(code):
        rest = len(digits) - len(code)
        return digits if not longest or shortest <= rest <= longest else None
    return None if longest else code + digits


def _fitting(digits: str, length: int, code: str) -> str | None:
    return code + digits if len(digits) == length else None
