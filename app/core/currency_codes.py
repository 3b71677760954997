"""The currencies of ISO 4217: those in use, and those that the ECB has published rates of since 1999."""

from app.core.suggestions import did_you_mean

_LIST = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP
    CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF
    IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD
    MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB
    RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD
    UYU UZS VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
    CYP EEK HRK LTL LVL MTL ROL SIT SKK TRL
"""
CURRENCY_CODES = frozenset(_LIST.split())


def parse_currency_code(text: str) -> str:
    """The code in capitals; ValueError if ISO 4217 has no such currency."""
    code = text.strip().upper()
    if code not in CURRENCY_CODES:
        raise ValueError(
            f"{text!r} is not a currency of ISO 4217. {did_you_mean(code, CURRENCY_CODES)} Use a code such as EUR"
        )
    return code
