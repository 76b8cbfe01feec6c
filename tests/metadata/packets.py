"""Sidecars as programs write them, and random ones."""

from collections.abc import Callable
from xml.sax.saxutils import escape

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# A test that is slow on a busy machine has not failed.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
}

EXIFTOOL = f"""<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='Image::ExifTool 12.57'>
<rdf:RDF xmlns:rdf='{RDF}'>

 <rdf:Description rdf:about=''
  xmlns:dc='{NAMESPACES["dc"]}'>
  <dc:description>
   <rdf:Alt>
    <rdf:li xml:lang='x-default'>A &lt;b&gt; &amp; c</rdf:li>
   </rdf:Alt>
  </dc:description>
  <dc:subject>
   <rdf:Bag>
    <rdf:li>beach</rdf:li>
    <rdf:li>Grandmother</rdf:li>
   </rdf:Bag>
  </dc:subject>
 </rdf:Description>
</rdf:RDF>
</x:xmpmeta>
{(" " * 99 + chr(10)) * 20}<?xpacket end='w'?>"""

DIGIKAM = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about=""
    xmlns:digiKam="{NAMESPACES["digiKam"]}"
    xmlns:MicrosoftPhoto="http://ns.microsoft.com/photo/1.0/"
    xmlns:lr="{NAMESPACES["lr"]}"
    xmlns:mediapro="http://ns.iview-multimedia.com/mediapro/1.0/"
    xmlns:dc="{NAMESPACES["dc"]}"
    xmlns:acdsee="http://ns.acdsee.com/iptc/1.0/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
   digiKam:ColorLabel="0"
   acdsee:categories="&lt;Categories&gt;&lt;/Categories&gt;"
   xmp:Rating="4">
   <digiKam:TagsList>
    <rdf:Seq>
     <rdf:li>People/Grandmother</rdf:li>
     <rdf:li>beach</rdf:li>
    </rdf:Seq>
   </digiKam:TagsList>
   <MicrosoftPhoto:LastKeywordXMP>
    <rdf:Bag>
     <rdf:li>People/Grandmother</rdf:li>
     <rdf:li>beach</rdf:li>
    </rdf:Bag>
   </MicrosoftPhoto:LastKeywordXMP>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>People|Grandmother</rdf:li>
     <rdf:li>beach</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
   <mediapro:CatalogSets>
    <rdf:Bag>
     <rdf:li>People|Grandmother</rdf:li>
     <rdf:li>beach</rdf:li>
    </rdf:Bag>
   </mediapro:CatalogSets>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>Grandmother</rdf:li>
     <rdf:li>beach</rdf:li>
    </rdf:Bag>
   </dc:subject>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""

LIGHTROOM = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0-c000">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
    xmlns:dc="{NAMESPACES["dc"]}"
    xmlns:lr="{NAMESPACES["lr"]}"
    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
    xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
   xmp:Rating="5"
   crs:Version="15.0"
   crs:Exposure2012="+0.35">
   <dc:subject>
    <rdf:Bag>
     <rdf:li>Grandmother</rdf:li>
     <rdf:li>People</rdf:li>
     <rdf:li>beach</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>People|Grandmother</rdf:li>
     <rdf:li>beach</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
   <xmpMM:History>
    <rdf:Seq>
     <rdf:li
      stEvt:action="saved"
      stEvt:changed="/metadata"/>
    </rdf:Seq>
   </xmpMM:History>
   <crs:ToneCurvePV2012>
    <rdf:Seq>
     <rdf:li>0, 0</rdf:li>
     <rdf:li>255, 255</rdf:li>
    </rdf:Seq>
   </crs:ToneCurvePV2012>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""

DARKTABLE = f"""<?xml version="1.0" encoding="UTF-8"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about=""
    xmlns:dc="{NAMESPACES["dc"]}"
    xmlns:lr="{NAMESPACES["lr"]}"
    xmlns:darktable="http://darktable.sf.net/"
   darktable:xmp_version="5"
   darktable:raw_params="0"
   darktable:auto_presets_applied="1">
   <dc:subject>
    <rdf:Bag>
     <rdf:li>Grandmother</rdf:li>
     <rdf:li>beach</rdf:li>
     <rdf:li>darktable</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>People|Grandmother</rdf:li>
     <rdf:li>beach</rdf:li>
     <rdf:li>darktable|exported</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
   <darktable:history>
    <rdf:Seq>
     <rdf:li
      darktable:num="0"
      darktable:operation="rawprepare"
      darktable:params="gz02eJxjYGBgYAJiCQYYAABGAAM="/>
    </rdf:Seq>
   </darktable:history>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""

EMPTY = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"/></x:xmpmeta>"""

ODD = f"""<!-- & by hand --><R:RDF xmlns:R="{RDF}" xmlns:k="{NAMESPACES["dc"]}" a='>"/'>
<R:Description R:about="uuid:1" k:title="a > b"><k:subject ><R:Bag a = ">" ><!-- one -->
\t<R:li >beach</R:li><R:li xml:lang="de">Gro&#223;mutter</R:li>
\t<R:li><![CDATA[a<b]]></R:li ></R:Bag></k:subject
></R:Description><R:Description R:about="uuid:1"/><!-- end --></R:RDF>"""

SAMPLES = {
    "exiftool": EXIFTOOL.encode(),
    "digiKam": DIGIKAM.encode(),
    "Lightroom": LIGHTROOM.encode(),
    "darktable": DARKTABLE.encode(),
    "empty": EMPTY.encode(),
    "odd": ODD.encode(),
    "CRLF": LIGHTROOM.replace("\n", "\r\n").encode(),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + DIGIKAM.encode(),
    "UTF-16": b"\xff\xfe" + DARKTABLE.replace("UTF-8", "UTF-16").encode("utf-16-le"),
    "UTF-16, the other way": b"\xfe\xff" + EXIFTOOL.encode("utf-16-be"),
    "Latin-1": DIGIKAM.replace("UTF-8", "ISO-8859-1").replace("beach", "Straße").encode("latin-1"),
}

# Letters with and without case, composed and not, and characters with a meaning in XML or a list.
_SIGNS = "aAbßİſé日😀\u0301\u2215\u00a6\u200d\ufffd/|\\&<>'\",;:.-_{}[]()~#%$*?=!0"
NAMES = st.text(st.sampled_from(_SIGNS), min_size=1, max_size=6)
TAGS = st.lists(NAMES, min_size=1, max_size=3).map(tuple)
TAGGINGS = st.dictionaries(TAGS, st.sampled_from([0.25, 0.5, 0.93, 1.0]), max_size=5)


@st.composite
def sidecars(draw: Callable) -> bytes:
    """Draw a sidecar that a program might have written."""
    line = draw(st.sampled_from(["\n", "\r\n", "", "\n\t"]))
    rdf = draw(st.sampled_from(["rdf", "r", "RDF-1"]))
    quote = draw(st.sampled_from("'\""))
    lists = []
    for prefix, name, container in (
        ("dc", "subject", "Bag"),
        ("lr", "hierarchicalSubject", "Bag"),
        ("digiKam", "TagsList", "Seq"),
    ):
        if not draw(st.booleans()):
            continue
        tag_prefix = draw(st.sampled_from([prefix, "p", f"{prefix}2"]))
        texts = draw(st.lists(NAMES, min_size=1, max_size=4))
        comment = draw(st.sampled_from(["", "<!-- <rdf:li>no</rdf:li> -->"]))
        items = line.join(f"<{rdf}:li>{escape(text)}</{rdf}:li>{comment}" for text in texts)
        lists.append(
            f"<{tag_prefix}:{name} xmlns:{tag_prefix}={quote}{NAMESPACES[prefix]}{quote}>{line}"
            f"<{rdf}:{container}>{line}{items}{line}</{rdf}:{container}>{line}</{tag_prefix}:{name}>"
        )
    about = f"{rdf}:about={quote}{quote}"
    attribute = f" xmlns:q={quote}urn:q{quote} q:a={quote}1 &gt; 0{quote}"
    if draw(st.booleans()):
        blocks = [f"<{rdf}:Description {about}{attribute}>{line.join(lists)}</{rdf}:Description>"]
    else:
        blocks = [f"<{rdf}:Description {about}>{text}</{rdf}:Description>" for text in lists]
        blocks.append(f"<{rdf}:Description {about}{attribute}/>")
    body = line.join([f"<{rdf}:RDF xmlns:{rdf}={quote}{RDF}{quote}>", *blocks, f"</{rdf}:RDF>"])
    text = f"<x:xmpmeta xmlns:x={quote}adobe:ns:meta/{quote}>{line}{body}{line}</x:xmpmeta>"
    if draw(st.booleans()):
        padding = " " * draw(st.integers(0, 50))
        text = (
            f"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?>{text}{padding}<?xpacket end='w'?>"
        )
    mark, codec = draw(
        st.sampled_from([(b"", "utf-8"), (b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le")])
    )
    return mark + (text + draw(st.sampled_from(["", "\n", "\r\n\0"]))).encode(codec)
