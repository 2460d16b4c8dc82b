// Every page of both faces, in both languages and in the dark: nothing breaks the policy, axe finds nothing serious, nothing is
// loaded from elsewhere. And how soon the first thing is seen.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { House, until } from './house.mjs'
import { Person, desktop, measure, median, phone, story } from './people.mjs'
import { picture } from './drawn.mjs'

describe('every page', () => {
  let house, things
  before(async () => {
    house = await House.start({ notify: { allow_hosts: '127.0.0.1' } })
    const product = await house.product({ title: 'River lantern', description: 'A folding lantern for the evening on the levee. Burns eight hours on one candle.', picture: picture(), alt: 'A red lantern' })
    const others = await Promise.all(
      [
        ['Enamel kettle', [58, 134, 189], [207, 224, 232]],
        ['Wool blanket', [185, 80, 95], [239, 224, 220]],
        ['Steel flask', [79, 145, 131], [230, 233, 216]],
        ['Pocket compass', [200, 155, 70], [217, 227, 234]],
      ].map(async ([title, body, ground]) => house.product({ title, picture: picture(480, 360, body, ground), alt: title })),
    )
    const open = await house.sale({ product, units: 100, per_buyer: 2, title: 'Lanterns at half price' })
    const soon = await house.sale({ product: others[0], units: 100, starts: 3600, title: 'Kettles, in an hour', admission: { room: true, brake: 'work' } })
    const gone = await house.sale({ product: others[1], units: 1, title: 'The last blanket' })
    const draw = await house.sale({ product: others[3], units: 5, draws: 1800, title: 'Compasses, by lot' })
    const draft = await house.sale({ product: others[2], schedule: false, starts: 3600, ends: 7200, title: 'Flasks, a draft' })
    const customer = await house.customer('regular')
    const paid = await customer.buy(open.id)
    await house.pay(customer, paid.order)
    const unpaid = await customer.buy(open.id)
    await (await house.customer()).buy(gone.id)
    const hook = await house.operator.post('/v1/webhooks', { url: 'http://127.0.0.1:9/nobody', events: ['order.paid'], description: 'Nobody listens' }).catch(() => undefined)
    things = { product, open, soon, gone, draw, draft, paid, unpaid, hook }
    await until('the order is paid', async () => (await customer.get(`/v1/orders/${paid.order}`)).state === 'paid')
  })
  after(() => house?.close())

  const shop = () => [
    ['/', 'home'],
    [`/products/${things.product.id}`, 'product'],
    [`/sales/${things.open.id}`, 'sale', 'sale-open'],
    [`/sales/${things.soon.id}`, 'sale', 'sale-upcoming'],
    [`/sales/${things.gone.id}`, 'sale', 'sale-gone'],
    [`/sales/${things.draw.id}`, 'sale', 'sale-draw'],
    ['/orders', 'orders'],
    [`/orders/${things.paid.order}`, 'order', 'order-paid'],
    [`/orders/${things.unpaid.order}`, 'order', 'order-unpaid'],
    ['/notices', 'notices'],
    ['/account', 'account'],
    ['/nowhere/at/all', 'missing'],
  ]

  for (const [size, language, theme] of [[phone, 'en', 'light'], [desktop, 'zh', 'light'], [phone, 'zh', 'dark'], [desktop, 'en', 'dark']])
    story(`the storefront, ${size === phone ? 'phone' : 'desktop'}, ${language}, ${theme}`, async () => {
      const p = await Person.open(house, { size, language, theme })
      const look = async (path, page, name = page) => {
        p.at = name
        await p.page.goto(path)
        await p.ready(page)
        assert.equal(await p.page.locator('html').getAttribute('lang').then((l) => l.slice(0, 2)), language)
        await p.accessible(`${name} (${language}, ${theme})`)
        assert.equal(await p.page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, `${name} scrolls sideways`)
        if (theme === 'light' || /home|sale-open/.test(name)) await p.shot(`shop-${name}-${size === phone ? 'phone' : 'desktop'}-${language}-${theme}`, { fullPage: true })
      }
      for (const [path, page] of [['/', 'home'], ['/sign-in', 'sign-in'], ['/sign-up', 'sign-up'], ['/reset#gone', 'reset'], [`/sales/${things.open.id}`, 'sale']])
        await look(path, page, `visitor-${page}`)
      await p.signIn('regular')
      if (language === 'en' && theme === 'light') {
        await p.goto('/')
        await p.picture('storefront-phone')
      }
      if (language === 'en' && size === desktop) {
        await p.page.emulateMedia({ colorScheme: 'light' })
        await p.goto('/')
        await p.picture('storefront-desktop')
        await p.page.emulateMedia({ colorScheme: theme })
      }
      for (const [path, page, name] of shop()) await look(path, page, name)
      await p.close()
    })

  story('the language is switched by hand, and kept', async () => {
    const p = await Person.open(house, { language: 'en' })
    await p.goto('/')
    const before = await p.page.locator('main').textContent()
    await p.hook('language').first().click()
    await until('the page is Chinese', async () => (await p.page.locator('html').getAttribute('lang')).startsWith('zh'))
    assert.match(await p.page.locator('main').textContent(), /[\u4e00-\u9fff]/)
    assert.notEqual(await p.page.locator('main').textContent(), before)
    await p.page.reload()
    await p.ready('home')
    assert.ok((await p.page.locator('html').getAttribute('lang')).startsWith('zh'), 'the choice is kept')
    await p.close()
  })

  story('no page shows a word that was not translated', async () => {
    // A key that is missing in a language is shown as the key: dotted lower case words.
    const p = await Person.open(house, { size: desktop, language: 'zh' })
    await p.signIn('regular')
    for (const [path, page] of shop()) {
      await p.page.goto(path)
      await p.ready(page)
      const keys = (await p.page.locator('body').innerText()).match(/\b[a-z]+(\.[a-z_]+){1,3}\b/g)?.filter((k) => !/\.(js|css|png|com|invalid|sale)$/.test(k)) ?? []
      assert.deepEqual(keys, [], `${path} shows keys`)
    }
    await p.close()
  })

  const consolePages = () => [
    ['/console/', 'page-overview'],
    ['/console/products', 'page-products'],
    ['/console/products/new', 'page-product-new'],
    [`/console/products/${things.product.id}`, 'page-product'],
    ['/console/products/import', 'page-import'],
    ['/console/sales', 'page-sales'],
    ['/console/sales/new', 'page-sale-new'],
    [`/console/sales/${things.open.id}`, 'page-sale'],
    [`/console/sales/${things.draft.id}/edit`, 'page-sale-edit'],
    [`/console/sales/${things.open.id}/live`, 'page-live'],
    ['/console/orders', 'page-orders'],
    [`/console/orders/${things.paid.order}`, 'page-order'],
    ['/console/webhooks', 'page-webhooks'],
    ...(things.hook ? [[`/console/webhooks/${things.hook.id}`, 'page-webhook']] : []),
    ['/console/schedules', 'page-schedules'],
    ['/console/queues', 'page-queues'],
    ['/console/events', 'page-events'],
    ['/console/users', 'page-users'],
    [`/console/users/${house.admin.id}`, 'page-user'],
    ['/console/access', 'page-access'],
    ['/console/access/import', 'page-policy'],
    ['/console/limits', 'page-limits'],
    ['/console/keys', 'page-keys'],
    ['/console/me', 'page-me'],
    ['/console/audit', 'page-audit'],
    ['/console/nowhere', 'page-not-found'],
  ]

  for (const [size, language, theme] of [[desktop, 'en', 'light'], [phone, 'zh', 'dark']])
    story(`the console, ${size === phone ? 'phone' : 'desktop'}, ${language}, ${theme}`, async () => {
      const p = await Person.open(house, { size, language, theme })
      await p.page.goto('/console/sign-in')
      await p.hook('page-sign-in').waitFor()
      await p.accessible('the sign-in of the console')
      await p.console('/console/', 'administrator')
      for (const [path, page] of consolePages()) {
        p.at = path
        await p.page.goto(path)
        await p.hook(page).waitFor()
        await p.page.waitForLoadState('networkidle', { timeout: 1500 }).catch(() => {}) // a live page never rests
        await p.accessible(`${path} (${language}, ${theme})`)
        await p.shot(`${page}-${size === phone ? 'phone' : 'desktop'}-${language}-${theme}`, { fullPage: true })
      }
      assert.ok((await p.page.locator('html').getAttribute('lang')).startsWith(language))
      await p.close()
    })

  story('the first thing is seen soon', async () => {
    for (const [name, path] of [['storefront', '/'], ['sale page', `/sales/${things.open.id}`], ['console', '/console/sign-in']]) {
      const times = []
      for (let i = 0; i < 5; i++) {
        const p = await Person.open(house, { size: phone })
        await p.page.goto(path)
        const at = await until('something is painted', () =>
          p.page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime), 10_000)
        times.push(Math.round(at))
        await p.close()
      }
      await measure(`first contentful paint of the ${name}, ms, median of 5`, median(times))
      assert.ok(median(times) < 5000, `${name}: ${times} ms; this is no measurement, only a guard`)
    }
  })
})
