// Before the first paint: the visitor's own colours and language, so that nothing flashes.
;(function () {
  var root = document.documentElement
  try {
    var theme = localStorage.getItem('levee.theme')
    if (theme === 'light' || theme === 'dark') root.dataset.theme = theme
    var language = localStorage.getItem('levee.language')
    root.lang = (language || navigator.language).slice(0, 2) === 'zh' ? 'zh-CN' : 'en'
  } catch (e) {
    // a browser that keeps nothing
  }
})()
