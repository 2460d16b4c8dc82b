// The way to the server breaks in every way, and the page goes on.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { House, until } from './house.mjs'
import { Person, desktop, story } from './people.mjs'

describe('the way to the server', () => {
  let house
  before(async () => {
    house = await House.start()
  })
  after(() => house?.close())

  const events = /\/events(\?|$)/

  story('without live events the page asks every three seconds', async () => {
    const sale = await house.sale({ units: 3 })
    const p = await Person.open(house, { allow: /events/ })
    await p.page.route(events, (route) => route.abort())
    await p.goto(`/sales/${sale.id}`)
    await p.page.locator('[data-test="sale"][data-live="false"]').waitFor()
    await house.act(sale.id, 'force_sold_out')
    await p.step('sold-out')
    await p.shot('sale-polling')
    // The way is free again, and events come.
    await p.page.unroute(events)
    await p.page.locator('[data-test="sale"][data-live="true"]').waitFor({ timeout: 40_000 })
    await p.close()
  })

  story('a stream that breaks in the middle is replaced by asking, and what was missed is made good', async () => {
    const sale = await house.sale({ units: 3 })
    const p = await Person.open(house, { allow: /./ })
    await p.goto(`/sales/${sale.id}`)
    await p.page.locator('[data-test="sale"][data-live="true"]').waitFor()
    await p.context.setOffline(true)
    await until('the page says so', () => p.hook('connection').isVisible(), 60_000)
    await p.shot('offline')
    await house.act(sale.id, 'pause')
    await p.context.setOffline(false)
    await p.step('paused')
    await p.page.locator('[data-test="connection"]').waitFor({ state: 'detached', timeout: 40_000 })
    p.problems.length = 0
    await p.close()
  })

  story('the server goes away and comes back under an open page', async () => {
    const sale = await house.sale({ units: 3, title: 'Over a restart' })
    const p = await Person.open(house, { size: desktop, allow: /Failed to load resource|ERR_|status of 5|EventSource/ })
    await house.customer('steadfast')
    await p.signIn('steadfast', `/sales/${sale.id}`)
    await p.step('open')
    const operator = await Person.open(house, { size: desktop, allow: /Failed to load resource|ERR_|status of 5|EventSource/ })
    await operator.console(`/console/sales/${sale.id}/live`)
    await operator.hook('page-live').waitFor()
    await house.stop('SIGKILL')
    await p.hook('connection').waitFor({ timeout: 30_000 })
    await p.shot('server-away')
    assert.ok(await p.hook('sale').isVisible(), 'what was there stays there')
    await house.run()
    await p.page.locator('[data-test="connection"]').waitFor({ state: 'detached', timeout: 40_000 })
    await p.hook('buy').click()
    await p.step('won')
    await until('the console is live again', async () => (await operator.hook('connection').getAttribute('data-state')) === 'live', 40_000)
    await until('the console sees the order', async () => /1/.test(await operator.hook('ledger-reserved').textContent()), 10_000)
    await p.close()
    await operator.close()
  })
})
