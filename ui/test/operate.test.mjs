// An operator watches a sale and works its levers while people buy.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { House, sleep, until } from './house.mjs'
import { Person, desktop, phone, story } from './people.mjs'
import { picture } from './drawn.mjs'

describe('the live page', () => {
  let house
  before(async () => {
    house = await House.start()
  })
  after(() => house?.close())

  const digits = (text) => Number((text ?? '').replace(/[^\d]/g, '') || 0)

  /** Presses a lever and confirms it. */
  async function lever(operator, name, units) {
    await operator.hook(`lever-${name}`).click()
    await operator.confirm({ units })
  }

  story('numbers move while people buy; pause, resume, top up and stop reach the crowd at once', async () => {
    const product = await house.product({ title: 'Pocket compass', picture: picture(480, 360, [200, 155, 70], [217, 227, 234]) })
    const sale = await house.sale({ product, units: 40, per_buyer: 1, title: 'Compasses, live' })
    const operator = await Person.open(house, { size: desktop })
    await operator.console(`/console/sales/${sale.id}/live`)
    await operator.hook('page-live').waitFor()
    await until('events come', async () => (await operator.hook('connection').getAttribute('data-state')) === 'live')
    const buyer = await Person.open(house, { size: phone })
    await house.customer('by-hand')
    await buyer.signIn('by-hand', `/sales/${sale.id}`)
    await buyer.step('open')

    // A crowd that presses all the time, each with a token; people who have theirs are refused and press on.
    const crowd = await house.customers(60)
    const tokens = await Promise.all(crowd.map((c) => c.enter(sale.id)))
    const told = {}
    let on = true
    const press = async (c, i) => {
      try {
        await c.post(`/v1/sales/${sale.id}/purchases`, { quantity: 1 }, { 'Levee-Admission': tokens[i].token })
        told.won = (told.won ?? 0) + 1
      } catch (e) {
        told[e.code ?? e.message] = (told[e.code ?? e.message] ?? 0) + 1
      }
    }
    const crowding = (async () => {
      for (let i = 0; on; i++) {
        await press(crowd[i % 20], i % 20) // twenty people: the first twenty units go, then limits
        await sleep(15)
      }
    })()

    const value = async (hook) => digits(await operator.hook(hook).textContent())
    await until('twenty units are reserved', async () => (await value('ledger-reserved')) === 20)
    const attempts = await value('outcome-limit_reached')
    await until('the numbers move', async () => (await value('outcome-limit_reached')) > attempts)
    assert.equal(await value('ledger-offered'), 40)
    assert.equal(await value('ledger-available'), 20)
    await until('the rate is shown', async () => (await value('attempts-rate')) > 0)
    await operator.accessible('the live page')
    await operator.shot('console-live', { fullPage: true })

    await lever(operator, 'pause')
    await until('the crowd is told', () => told.paused > 0)
    await buyer.step('paused') // without a reload
    await buyer.shot('sale-paused')
    await until('the operator sees the phase', async () => /paus/i.test(await operator.hook('phase').textContent()))
    const wonBefore = told.won
    await until('refusals are counted by their reason', async () => (await value('outcome-paused')) > 0)

    await lever(operator, 'resume')
    await buyer.step('open')
    assert.equal(told.won, wonBefore, 'nobody bought in the pause')
    await buyer.hook('buy').click()
    await buyer.step('won')
    await until('the operator sees it', async () => (await value('ledger-reserved')) === 21)

    await lever(operator, 'top_up', 10)
    await until('fifty are offered', async () => (await value('ledger-offered')) === 50)
    await operator.picture('console-live')

    on = false
    await crowding
    for (let i = 20; i < 60; i++) await press(crowd[i], i)
    assert.equal(told.won, 49, `50 units and one of them by hand: ${JSON.stringify(told)}`)
    assert.ok(told.sold_out > 0)
    const watcher = await Person.open(house)
    await watcher.goto(`/sales/${sale.id}`)
    await watcher.step('sold-out')

    await lever(operator, 'stop') // the emergency stop
    await watcher.step('ended', 'paused', 'sold-out')
    await assert.rejects(crowd[21].buy(sale.id))
    await until('the acts are listed', async () => (await operator.hook('act').count()) >= 4)
    const acts = await operator.hook('act').evaluateAll((list) => list.map((e) => e.dataset.act))
    for (const act of ['pause', 'resume', 'top_up', 'stop']) assert.ok(acts.includes(act), `${act} is not among ${acts}`)
    assert.equal(await operator.hook('books').getAttribute('data-state'), 'balanced')
    const account = await house.account(sale.id)
    assert.ok(account.balanced, JSON.stringify(account.problems))
    assert.equal(account.stock.reserved, 50)
    await operator.hook('as-table').click()
    await operator.hook('table-live').waitFor()
    await operator.accessible('the live page as a table')
    await Promise.all([operator, buyer, watcher].map((p) => p.close()))
  })

  story('a page that opens late draws what was before', async () => {
    const sale = await house.sale({ units: 5, per_buyer: 5 })
    const [c] = await house.customers(1)
    const { token } = await c.enter(sale.id)
    for (let i = 0; i < 5; i++) {
      await c.post(`/v1/sales/${sale.id}/purchases`, { quantity: 1 }, { 'Levee-Admission': token })
      await sleep(300)
    }
    const p = await Person.open(house, { size: phone })
    await p.console(`/console/sales/${sale.id}/live`)
    await p.hook('plot-attempts').waitFor()
    await until('the numbers from before are there', async () => digits(await p.hook('outcome-won').textContent()) === 5)
    await p.accessible('the live page on a phone')
    await p.shot('console-live-phone')
    await p.close()
  })

  story('who is no operator does not get in', async () => {
    await house.customer('curious')
    const p = await Person.open(house, { size: desktop })
    await p.page.goto('/console/sign-in')
    await p.field('name').fill('curious')
    await p.field('password').fill('quiet-levee-at-dusk-41')
    await p.hook('submit').click()
    await p.hook('not-operator').or(p.hook('page-forbidden')).first().waitFor()
    await p.page.goto('/console/orders')
    assert.equal(await p.hook('table-orders').count(), 0)
    await p.close()
  })
})
