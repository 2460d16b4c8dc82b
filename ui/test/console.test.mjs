// The operators' everyday work in the console.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { createHmac } from 'node:crypto'
import { House, until } from './house.mjs'
import { Person, desktop, story } from './people.mjs'
import { picture } from './drawn.mjs'

describe('the console', () => {
  let house, p, receiver
  before(async () => {
    // A receiver next door, which fails the first time it is asked.
    receiver = { got: [], fail: 1 }
    receiver.server = createServer((req, res) => {
      let body = ''
      req.on('data', (c) => (body += c))
      req.on('end', () => {
        receiver.got.push({ headers: req.headers, body, refused: receiver.fail > 0 })
        res.writeHead(receiver.fail-- > 0 ? 500 : 204).end()
      })
    })
    await new Promise((resolve) => receiver.server.listen(0, '127.0.0.1', resolve))
    receiver.url = `http://127.0.0.1:${receiver.server.address().port}/hooks`
    house = await House.start({ notify: { allow_hosts: '127.0.0.1' } })
    p = await Person.open(house, { size: desktop })
    await p.console('/console/')
    await p.hook('page-overview').waitFor()
  })
  after(async () => {
    await p?.leave()
    receiver?.server.close()
    receiver?.server.closeAllConnections()
    await house?.close()
  })

  const go = async (path, page) => {
    await p.page.goto(path)
    await p.hook(page).waitFor()
  }
  const fill = async (name, value) => {
    const f = p.field(name)
    if (await f.evaluate((e) => e.tagName === 'SELECT')) await f.selectOption(String(value))
    else await f.fill(String(value))
  }

  story('a product is made, changed, given a picture and put on sale', async () => {
    await go('/console/products/new', 'page-product-new')
    await p.hook('submit').click()
    await p.hook('field-error').first().waitFor() // the form says what is missing
    await p.accessible('a form with errors')
    await fill('title', 'Weather radio')
    await fill('code', 'RADIO')
    await fill('description', 'Knows the river before the river comes.')
    await fill('sku-code', 'RADIO-1')
    await fill('sku-name', 'Weather radio, yellow')
    await fill('price', '329.00')
    await fill('on-hand', '250')
    await p.hook('submit').click()
    await p.hook('page-product').waitFor()
    await p.accessible('a product')
    await fill('title', 'Weather radio, second edition')
    await p.hook('submit').first().click()
    const made = await until('the title is saved', async () => {
      const { products, items } = await house.operator.get('/v1/products?state=draft').catch(() => house.operator.get('/v1/products'))
      return (products ?? items).find((x) => x.title === 'Weather radio, second edition')
    })
    assert.equal(made.skus[0].price.amount, 32900)
    await p.hook('picture-file').setInputFiles({ name: 'radio.png', mimeType: 'image/png', buffer: picture(480, 360, [217, 164, 65], [241, 221, 207]) })
    await p.hook('picture-preview').waitFor()
    await fill('alt', 'A yellow radio')
    await p.hook('picture-send').click()
    await p.hook('picture').waitFor()
    await p.hook('publish').click()
    await p.confirm()
    await until('it is on sale', async () => (await house.operator.get(`/v1/products/${made.id}`)).state === 'on_sale')
    await p.shot('console-product', { fullPage: true })
    p.check()
  })

  story('somebody else changed the product meanwhile: both are shown, nothing is lost', async () => {
    const made = await house.product({ title: 'Changed by two' })
    await go(`/console/products/${made.id}`, 'page-product')
    await fill('title', 'Changed by me')
    await house.operator.call('PATCH', `/v1/products/${made.id}`, { title: 'Changed by another', version: 1, code: made.code, description: made.description, state: made.state })
    await p.hook('submit').first().click()
    await p.hook('stale').waitFor()
    assert.match(await p.hook('stale').textContent(), /Changed by another/)
    await p.accessible('two changes that meet')
    p.check()
  })

  story('an import says what is wrong, line by line', async () => {
    await go('/console/products/import', 'page-import')
    const csv = await house.operator.get('/v1/products/export?format=csv').catch(() => house.operator.get('/v1/products/export'))
    const head = csv.split('\n')[0]
    const columns = head.split(',')
    const row = (v) => columns.map((c) => v[c] ?? '').join(',')
    const good = { product: 'IMP-1', title: 'Imported mug', state: 'draft', sku: 'IMP-1-A', name: 'Mug', amount: '1500', price: '1500', currency: 'CNY', on_hand: '5' }
    const lines = [head, row({ ...good, product_code: 'IMP-1', sku_code: 'IMP-1-A', sku_name: 'Mug' }), row({ ...good, product_code: 'IMP-2', product: 'IMP-2', sku_code: 'IMP-2-A', sku: 'IMP-2-A', amount: 'many', price: 'many' })]
    await p.hook('import-file').locator('xpath=descendant-or-self::input').first().setInputFiles({ name: '<b>stock</b>.csv', mimeType: 'text/csv', buffer: Buffer.from(lines.join('\n') + '\n') })
    await p.hook('import-start').click()
    await p.hook('import-result').waitFor()
    await p.hook('table-import-errors').waitFor()
    assert.match(await p.hook('table-import-errors').textContent(), /3/, 'the third line is named')
    await p.accessible('the errors of an import')
    await p.shot('console-import')
    p.check()
  })

  story('a sale by the guided form, with the dry run', async () => {
    const product = await house.product({ title: 'Toy sloop' })
    await go('/console/sales/new', 'page-sale-new')
    await fill('sku', 'Toy sloop')
    await p.hook('sku-option').first().click()
    await fill('title', 'Sloops at noon')
    await fill('price', '99.00')
    await fill('units', '0')
    await until('the dry run finds the problem', async () => (await p.hook('dry-run').getAttribute('data-state')) === 'problems')
    await p.accessible('the form of a sale')
    await fill('units', '12')
    await fill('per_buyer', '1')
    const local = (s) => new Date(Date.now() + s * 1000).toISOString().slice(0, 16)
    await fill('starts_at', local(3600))
    await fill('ends_at', local(7200))
    await until('the dry run is content', async () => (await p.hook('dry-run').getAttribute('data-state')) === 'good')
    await p.shot('console-sale-form', { fullPage: true })
    await p.hook('submit').click()
    await p.hook('page-sale').waitFor()
    const { items: sales } = await house.operator.get('/v1/sales')
    const made = sales.find((s) => s.title === 'Sloops at noon')
    assert.equal(made.phase, 'draft')
    assert.equal(made.price.amount, 9900)
    assert.equal(made.operator.units, 12)
    assert.equal(made.product, product.id)
    await p.hook('schedule').click()
    await p.confirm()
    await until('it is scheduled', async () => (await house.operator.get(`/v1/sales/${made.id}`)).phase === 'upcoming')
    p.check()
  })

  story('a webhook: made, delivered after a failure, signed, and sent again by hand', async () => {
    await go('/console/webhooks', 'page-webhooks')
    await p.hook('new-webhook').click()
    await fill('url', receiver.url)
    await fill('description', 'The shop next door')
    for (const event of ['order.created', 'order.paid']) {
      const box = p.hook('field-events').getByRole('checkbox', { name: event })
      if (!(await box.isChecked())) await p.hook('field-events').getByText(event, { exact: true }).click()
      assert.ok(await box.isChecked())
    }
    await p.hook('submit').click()
    await p.hook('secret').waitFor()
    const secret = (await p.hook('secret').evaluate((e) => e.value ?? e.querySelector('input')?.value ?? e.textContent)).trim()
    assert.match(secret, /^whsec_/)
    await p.accessible('the secret of a webhook')
    await p.hook('secret-done').click()

    const sale = await house.sale({ units: 2 })
    const buyer = await house.customer('hooked')
    const { order } = await buyer.buy(sale.id)
    await house.pay(buyer, order)
    await until('the failed delivery came again', () => receiver.got.length >= 2 && receiver.got.some((g) => !g.refused), 60_000)
    const last = receiver.got.find((g) => !g.refused)
    const signed = `${last.headers['webhook-id']}.${last.headers['webhook-timestamp']}.${last.body}`
    const want = 'v1,' + createHmac('sha256', Buffer.from(secret.slice('whsec_'.length), 'base64')).update(signed).digest('base64')
    assert.ok(last.headers['webhook-signature'].split(' ').includes(want), 'the signature is right')

    await go('/console/webhooks', 'page-webhooks')
    await p.hook('table-webhooks').locator('[data-test="row-link"]').first().click()
    await p.hook('page-webhook').waitFor()
    await p.hook('table-deliveries').locator('[data-test="row"]').first().waitFor()
    await p.accessible('the deliveries of a webhook')
    await p.shot('console-webhook', { fullPage: true })
    const before = receiver.got.length
    await p.hook('table-deliveries').locator('[data-test="replay"]').first().click()
    await until('it was sent again', () => receiver.got.length > before, 20_000)
    await p.hook('table-deliveries').locator('[data-test="row-link"]').first().click()
    await p.hook('page-delivery').waitFor()
    await p.hook('payload').waitFor()
    await p.hook('attempt').first().waitFor()
    await p.accessible('a delivery')
    p.check()
  })

  story('an order is found and its money given back', async () => {
    const sale = await house.sale({ units: 2 })
    const buyer = await house.customer('returner')
    const { order } = await buyer.buy(sale.id)
    await house.pay(buyer, order)
    await until('it is paid', async () => (await buyer.get(`/v1/orders/${order}`)).state === 'paid')
    await go('/console/orders', 'page-orders')
    await fill('id', order)
    await p.hook('search').click()
    await until('only this order is listed', async () => (await p.hook('table-orders').locator('[data-test="row"]').evaluateAll((l) => l.map((e) => e.dataset.id))).join() === order)
    await p.hook('table-orders').locator('[data-test="row-link"]').first().click()
    await p.hook('page-order').waitFor()
    await p.accessible('an order')
    await p.hook('order-refund').click()
    await p.confirm({ reason: 'it came broken' })
    await until('the money is back', async () => (await buyer.get(`/v1/orders/${order}`)).state === 'refunded', 20_000)
    await p.page.locator('[data-test="step"][data-to="refunded"]').waitFor()
    await p.shot('console-order', { fullPage: true })
    p.check()
  })

  story('the audit trail, for administrators', async () => {
    const admin = await Person.open(house, { size: desktop })
    await admin.console('/console/audit', 'administrator')
    await admin.hook('page-audit').waitFor()
    await admin.hook('table-audit').locator('[data-test="row"]').first().waitFor()
    assert.ok((await admin.hook('table-audit').locator('[data-test="row"]').count()) > 3)
    await admin.accessible('the audit trail')
    await admin.shot('console-audit')
    await admin.close()
    await p.page.goto('/console/audit') // an operator is no administrator
    await p.hook('page-forbidden').waitFor()
    p.check()
  })

  story('a session that ended is signed in again, and the act goes on', async () => {
    const other = await Person.open(house, { size: desktop })
    await other.console('/console/products/new')
    await other.hook('page-product-new').waitFor()
    await other.field('title').fill('Kept over a sign-in')
    await other.field('code').fill('KEPT')
    await other.field('sku-code').fill('KEPT-1')
    await other.field('price').fill('10')
    await other.context.clearCookies()
    await other.hook('submit').click()
    const again = other.hook('again').or(other.page.locator('[data-test="again"]')).first()
    await again.waitFor()
    const name = again.locator('[data-test="field-name"] input')
    if (await name.count()) await name.fill('operator')
    await again.locator('[data-test="field-password"] input').fill('quiet-levee-at-dusk-41')
    await again.locator('[data-test="submit"]').click()
    await other.hook('page-product').waitFor()
    await other.close()
  })
})
