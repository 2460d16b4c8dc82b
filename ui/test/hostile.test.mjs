// A hundred texts that try to be more than text.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { House, Refused } from './house.mjs'
import { Person, desktop, phone, story } from './people.mjs'
import { picture } from './drawn.mjs'
import { payloads } from './payloads.mjs'

describe('hostile texts', () => {
  let house
  /** What the house took: each with its product and sale. */
  const taken = []
  const refused = []
  const small = picture(48, 36)

  before(async () => {
    house = await House.start()
    for (let i = 0; i < payloads.length; i += 10) await Promise.all(payloads.slice(i, i + 10).map(make))
  })
  after(() => house?.close())

  async function make(p) {
    try {
      const product = await house.operator.post('/v1/products', {
        title: p.text, description: `${p.text} and ${p.text}`, state: 'on_sale',
        skus: [{ code: `H-${p.n}`, name: p.text, price: { amount: 100 + p.n, currency: 'CNY' }, on_hand: 50 }],
      })
      await house.operator.post(`/v1/products/${product.id}/pictures?alt=${encodeURIComponent(p.text)}`, small)
      const sale = await house.sale({ product, title: p.text, units: 5 })
      const full = await house.visitor.get(`/v1/products/${product.id}`)
      taken.push({ ...p, product, sale, title: full.title, alt: full.pictures[0].alt, saleTitle: (await house.visitor.get(`/v1/sales/${sale.id}`)).title })
    } catch (e) {
      if (!(e instanceof Refused) || (e.status !== 422 && e.status !== 400)) throw new Error(`${p.n} ${p.what}: ${e.message}`)
      refused.push(p)
    }
  }

  /** What must never be in a page, whatever the texts are. Both faces have no such element of their own. */
  const strangers = (page) =>
    page.evaluate(() => {
      const found = []
      for (const e of document.querySelectorAll('*')) {
        const handlers = [...e.attributes].filter((a) => /^on/i.test(a.name) || /^\s*javascript:/i.test(a.value.replace(/[\t\n\r]/g, '')) && /^(href|src|action|formaction|data|xlink:href)$/i.test(a.name))
        if (e.hasAttribute('data-canary') || handlers.length || e.matches('iframe, object, embed, base, marquee, math, foreignObject, meta[http-equiv="refresh"], body style')) found.push(e.outerHTML.slice(0, 200))
        else if (e.matches('script:not([src]), script[src]:not([src^="/"])') || (e.matches('img') && !/^(\/v1\/pictures\/|\/assets\/|\/console\/assets\/|\/|data:image\/|blob:)/.test(e.getAttribute('src') ?? ''))) found.push(e.outerHTML.slice(0, 200))
      }
      return found
    })

  /** Whether some element's whole text is exactly this, and holds no element. Spaces at the ends do not count: pages are laid out. */
  const shown = (page, within, text) =>
    page.evaluate(([within, text]) => {
      const want = text.trim()
      for (const e of document.querySelectorAll(within))
        for (const x of [e, ...e.querySelectorAll('*')]) if (x.textContent.trim() === want && x.childElementCount === 0) return true
      return false
    }, [within, text])

  story('the house takes them as text, or says what is wrong with them', () => {
    assert.equal(taken.length + refused.length, 100)
    assert.ok(taken.length >= 90, `refused are ${refused.map((p) => p.what)}`)
    for (const p of refused) assert.match(p.text, /[\u0000-\u001f\u007f]|^[\u0300-\u036f]/, `${p.n} ${p.what} was refused, and holds nothing that may not be kept`)
    for (const t of taken) if (!/^\s|\s$/.test(t.text)) assert.equal(t.title, t.text, `${t.what} was changed`)
  })

  story('the look for strangers finds them, and the look for a text is not fooled', async () => {
    const p = await Person.open(house, { allow: /./ })
    await p.goto('/')
    assert.deepEqual(await strangers(p.page), [])
    // An attribute such as onclick cannot even be planted: Trusted Types refuse it.
    const planted = ['a[href="javascript:1"]', 'iframe', 'img[src="x"]', 'b[data-canary]', 'base[href="//x"]', 'a[href="java\tscript:1"]']
    for (const what of planted) {
      await p.page.evaluate((what) => {
        const [, tag, name, value] = /^(\w+)(?:\[([\w-]+)(?:="([^"]*)")?\])?$/.exec(what)
        const e = document.createElement(tag)
        e.className = 'planted'
        if (name) e.setAttribute(name, value ?? '')
        document.querySelector('main').append(e)
      }, what)
      assert.equal((await strangers(p.page)).length, 1, what)
      await p.page.evaluate(() => document.querySelector('.planted').remove())
    }
    await p.page.evaluate(() => {
      const e = Object.assign(document.createElement('p'), { id: 'p1' })
      e.append('half ', document.createElement('b'), 'price')
      document.querySelector('main').append(e)
    })
    assert.equal(await shown(p.page, '#p1', 'half price'), false, 'a text with an element in it is not that text')
    await p.leave()
  })

  story('lists of the storefront', async () => {
    const p = await Person.open(house, { size: desktop })
    await p.goto('/')
    for (let i = 0; i < 40; i++) {
      const more = p.hook('more').locator('visible=true').first()
      if (!(await more.isVisible().catch(() => false))) break
      const before = await p.page.locator('[data-test="sale-card"], [data-test="product-card"]').count()
      await more.click()
      await p.page.waitForFunction((n) => document.querySelectorAll('[data-test="sale-card"], [data-test="product-card"]').length > n || !document.querySelector('[data-test="more"]'), before)
    }
    const missing = []
    let sales = 0
    for (const t of taken) {
      // The page shows the newest sales; each is looked at by itself below.
      const card = `[data-test="sale-card"][data-sale="${t.sale.id}"]`
      if (await p.page.locator(card).count()) {
        sales++
        if (!(await shown(p.page, card, t.saleTitle))) missing.push(`sale ${t.n} ${t.what}`)
      }
      if (!(await shown(p.page, `[data-test="product-card"][data-product="${t.product.id}"]`, t.title))) missing.push(`product ${t.n} ${t.what}`)
      const alts = await p.page.locator(`[data-test="product-card"][data-product="${t.product.id}"] img, [data-test="sale-card"][data-sale="${t.sale.id}"] img`).evaluateAll((list) => list.map((i) => i.getAttribute('alt')))
      if (alts.some((alt) => alt && alt !== t.alt)) missing.push(`alt ${t.n} ${t.what}: ${alts}`)
    }
    assert.deepEqual(missing, [])
    assert.ok(sales >= 40, `${sales} sales are shown`)
    assert.deepEqual(await strangers(p.page), [])
    await p.shot('hostile-home')
    await p.close()
  })

  story('each product and each sale of the storefront', async () => {
    // Several at once: the pages wait for each other's network, not for the processor.
    const rest = [...taken]
    const missing = []
    await Promise.all(
      Array.from({ length: 3 }, async () => {
        const p = await Person.open(house, { size: phone })
        for (let t = rest.pop(); t; t = rest.pop()) {
          await p.page.goto(`/products/${t.product.id}`)
          await p.ready('product')
          if (!(await shown(p.page, '[data-test="product-title"]', t.title))) missing.push(`product ${t.n} ${t.what}`)
          const seen = await p.page.evaluate(() => ({ alt: document.querySelector('main img')?.alt, text: document.querySelector('main').textContent }))
          if (seen.alt !== t.alt) missing.push(`alt ${t.n} ${t.what}: ${seen.alt}`)
          if (!seen.text.includes(`${t.text} and`.trim())) missing.push(`description ${t.n} ${t.what}`)
          const strange = await strangers(p.page)
          await p.page.goto(`/sales/${t.sale.id}`)
          await p.ready('sale')
          if (!(await shown(p.page, 'main', t.saleTitle))) missing.push(`sale ${t.n} ${t.what}`)
          strange.push(...(await strangers(p.page)))
          if (strange.length) missing.push(`${t.n} ${t.what}: ${strange}`)
          if (p.problems.length) missing.push(`${t.n} ${t.what}: ${p.problems.splice(0).join('; ')}`)
          if (await p.page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) missing.push(`${t.n} ${t.what}: the page scrolls sideways`)
        }
        await p.close()
      }),
    )
    assert.deepEqual(missing, [])
  })

  story('the lists and forms of the console', async () => {
    const p = await Person.open(house, { size: desktop })
    await p.console('/console/products', 'administrator')
    const walk = async (table, what) => {
      const found = new Set()
      for (let i = 0; i < 30; i++) {
        await p.hook(`table-${table}`).locator('[data-test="row"]').first().waitFor()
        for (const t of await p.hook(`table-${table}`).evaluate((e) => [...e.querySelectorAll('*')].filter((x) => x.childElementCount === 0).map((x) => x.textContent.trim()))) found.add(t)
        assert.deepEqual(await strangers(p.page), [], what)
        const next = p.hook('next-page').first()
        if (!(await next.isVisible().catch(() => false)) || (await next.isDisabled())) break
        const first = await p.hook(`table-${table}`).locator('[data-test="row"]').first().getAttribute('data-id')
        await next.click()
        await p.page.waitForFunction(([t, id]) => document.querySelector(`[data-test="table-${t}"] [data-test="row"]`)?.getAttribute('data-id') !== id, [table, first])
      }
      return found
    }
    await p.page.goto('/console/products')
    const products = await walk('products', 'the products of the console')
    assert.deepEqual(taken.filter((t) => !products.has(t.title.trim())).map((t) => `product ${t.n} ${t.what}`), [])
    await p.page.goto('/console/sales')
    const sales = await walk('sales', 'the sales of the console')
    assert.deepEqual(taken.filter((t) => !sales.has(t.saleTitle.trim())).map((t) => `sale ${t.n} ${t.what}`), [])
    p.check()

    const missing = []
    for (const t of taken.filter((t) => /[<{"'`]|script:/.test(t.text)).filter((_, i) => i % 3 === 0)) {
      await p.page.goto(`/console/products/${t.product.id}`)
      await p.hook('page-product').waitFor()
      await p.hook('picture').first().waitFor()
      const value = await p.field('title').inputValue()
      if (value !== t.title.replace(/[\r\n]/g, '')) missing.push(`title field ${t.n} ${t.what}: ${value}`)
      const strange = await strangers(p.page)
      await p.page.goto(`/console/sales/${t.sale.id}/live`)
      await p.hook('page-live').waitFor()
      strange.push(...(await strangers(p.page)))
      await p.page.goto(`/console/sales/${t.sale.id}`)
      await p.hook('page-sale').waitFor()
      strange.push(...(await strangers(p.page)))
      if (strange.length || p.problems.length) missing.push(`${t.n} ${t.what}: ${[...strange, ...p.problems.splice(0)].join('; ')}`)
    }
    assert.deepEqual(missing, [])
    await p.page.goto('/console/audit')
    await p.hook('table-audit').locator('[data-test="row"]').first().waitFor()
    assert.deepEqual(await strangers(p.page), [])
    await p.close()
  })

  story('orders, notices, search fields and addresses', async () => {
    const worst = taken.filter((t) => /^(script|image with quotes|svg with onload|mustache|attribute break, double|title end|zero width|very long, markup|message format|spreadsheet formula)$/.test(t.what))
    assert.equal(worst.length, 10)
    const buyer = await house.customer('hasOwnProperty') // a name that objects have already
    const orders = []
    for (const t of worst) {
      const { order } = await buyer.buy(t.sale.id)
      await buyer.post(`/v1/orders/${order}/cancellation`, { reason: t.text.slice(0, 100) })
      orders.push([t, order])
    }
    const p = await Person.open(house, { size: phone })
    await p.signIn('hasOwnProperty')
    await p.goto('/account')
    assert.match(await p.page.locator('main').textContent(), /hasOwnProperty/)
    const operator = await Person.open(house, { size: desktop })
    await operator.console('/console/orders')
    for (const [t, order] of orders) {
      await p.page.goto(`/orders/${order}`)
      await p.ready('order')
      assert.ok((await p.page.locator('main').textContent()).includes(t.title.trim()), `the order of ${t.what} names what was bought`)
      assert.deepEqual(await strangers(p.page), [], t.what)
      await operator.page.goto(`/console/orders/${order}`)
      await operator.hook('page-order').waitFor()
      await operator.hook('lines').waitFor()
      assert.ok((await operator.page.locator('body').textContent()).includes(t.title.trim()), `the console's order of ${t.what}`)
      assert.deepEqual(await strangers(operator.page), [], t.what)
      // In addresses: as a path, a query, and where a sign-in leads to.
      await p.page.goto(`/${encodeURIComponent(t.text)}`)
      await p.ready()
      await p.page.goto(`/sign-in?next=${encodeURIComponent(t.text)}`)
      await p.ready()
      assert.deepEqual(await strangers(p.page), [], `${t.what} in an address`)
    }
    for (const path of ['/orders', '/notices']) {
      await p.page.goto(path)
      await p.ready()
      assert.deepEqual(await strangers(p.page), [], path)
    }
    // Where a sign-in leads to is a path of this house and nothing else.
    const visitor = await Person.open(house)
    for (const next of ['//canary.invalid/', 'https://canary.invalid/', '/\\canary.invalid', 'javascript:canary(1)', '/\t/canary.invalid']) {
      await visitor.page.goto(`/sign-in?next=${encodeURIComponent(next)}`)
      await visitor.hook('name').fill('hasOwnProperty')
      await visitor.hook('password').fill('quiet-levee-at-dusk-41')
      await visitor.hook('sign-in').click()
      await visitor.page.waitForURL((u) => u.pathname !== '/sign-in')
      assert.equal(new URL(visitor.page.url()).origin, house.base, next)
      await visitor.context.clearCookies()
      await visitor.page.evaluate(() => localStorage.clear())
    }
    await Promise.all([p, operator, visitor].map((x) => x.close()))
  })

  story('file names and their contents', async () => {
    const p = await Person.open(house, { size: desktop })
    await p.console(`/console/products/${taken[0].product.id}`)
    await p.hook('page-product').waitFor()
    const names = payloads.filter((x) => !/[\u0000-\u001f/\\\u007f]/.test(x.text)).slice(0, 40)
    for (const { text, what } of names) {
      await p.hook('picture-file').locator('xpath=descendant-or-self::input').first().setInputFiles({ name: `${text}.png`, mimeType: 'image/png', buffer: small })
      await p.hook('picture-preview').waitFor()
      assert.deepEqual(await strangers(p.page), [], what)
    }
    // A picture that is none is refused, in words.
    await p.hook('picture-file').locator('xpath=descendant-or-self::input').first().setInputFiles({ name: '<b data-canary>.png', mimeType: 'image/png', buffer: Buffer.from('<svg onload=canary(1)>') })
    const send = p.hook('picture-send')
    if (await send.isEnabled().catch(() => false)) {
      await p.field('alt').fill('x')
      await send.click()
    }
    await p.page.locator('[data-test="problem"], [data-test="field-error"], [role="alert"]').first().waitFor()
    assert.deepEqual(await strangers(p.page), [])

    await p.page.goto('/console/products/import')
    await p.hook('page-import').waitFor()
    const evil = `<img src=x data-canary onerror=canary(1)>`
    await p.hook('import-file').locator('xpath=descendant-or-self::input').first().setInputFiles({ name: `${evil}.csv`, mimeType: 'text/csv', buffer: Buffer.from(`${evil},"${evil}"\n${evil},1\n`) })
    await p.hook('import-start').click()
    await p.page.locator('[data-test="problem"], [data-test="table-import-errors"], [data-test="field-error"]').first().waitFor()
    assert.deepEqual(await strangers(p.page), [])
    await p.close()
  })
})
