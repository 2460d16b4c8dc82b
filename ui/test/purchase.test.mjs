// One unit, two people; who does not pay; and a purchase by the keyboard alone.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { House, until } from './house.mjs'
import { Person, desktop, phone, story } from './people.mjs'
import { picture } from './drawn.mjs'

describe('buying', () => {
  let house, slow
  before(async () => {
    house = await House.start()
    // Somebody who buys and does not pay, while the other tests go on: the least time to pay is ten seconds.
    const sale = await house.sale({ units: 1, pay_within_seconds: 10, title: 'Ten seconds to pay' })
    const person = await Person.open(house, { size: phone })
    await house.customer('forgetful')
    await person.signIn('forgetful', `/sales/${sale.id}`)
    await person.step('open')
    await person.hook('buy').click()
    await person.step('won')
    slow = { sale, person, order: await person.hook('order-number').getAttribute('data-order') }
    await person.hook('order-link').click()
    await person.ready('order')
  })
  after(async () => {
    await slow?.person.leave()
    await house?.close()
  })

  story('two browsers, one unit: one wins, the other waits and gets what comes back', async () => {
    const product = await house.product({ title: 'River lantern', description: 'Burns eight hours on one candle.', picture: picture(), alt: 'A red lantern' })
    const sale = await house.sale({ product, units: 1, title: 'The last lantern' })
    const people = await Promise.all(
      [phone, desktop].map(async (size, i) => {
        const p = await Person.open(house, { size })
        p.account = await house.customer(`racer-${i}`)
        await p.signIn(`racer-${i}`, `/sales/${sale.id}`)
        await p.step('open')
        return p
      }),
    )
    await people[0].shot('sale-open-phone')
    await people[1].shot('sale-open-desktop')
    await people[1].picture('sale-desktop')
    await Promise.all(people.map((p) => p.hook('buy').click()))
    const steps = await Promise.all(people.map((p) => p.step('won', 'sold-out')))
    assert.deepEqual([...steps].sort(), ['sold-out', 'won'], 'exactly one of the two gets the unit')
    const [winner, loser] = steps[0] === 'won' ? people : [people[1], people[0]]
    await winner.accessible('the page of who won')
    await loser.accessible('the page of who did not')
    await winner.shot('sale-won')
    await loser.shot('sale-sold-out')
    assert.equal((await house.account(sale.id)).stock.reserved, 1)

    await loser.hook('line-join').click()
    await loser.step('line')
    assert.equal(await loser.number('line-position', 'data-position'), 1)
    await loser.shot('sale-line')

    await winner.hook('order-link').click()
    await winner.ready('order')
    await winner.hook('cancel').click()
    await winner.hook('cancel-yes').click()
    await winner.page.locator('[data-test="order"][data-state="cancelled"]').waitFor()

    await loser.step('offered') // without a reload
    await loser.shot('sale-offered')
    await loser.hook('pay').click()
    await loser.payAtProvider()
    await loser.page.locator('[data-test="order"][data-state="paid"]').waitFor()
    await loser.accessible('the page of a paid order')
    await loser.shot('order-paid')

    const account = await house.account(sale.id)
    assert.equal(account.stock.sold, 1)
    assert.equal(account.stock.reserved + account.stock.remaining, 0)
    assert.ok(account.balanced, JSON.stringify(account.problems))
    // The winner was told, and the loser has his order in the list.
    await loser.goto('/orders')
    assert.equal(await loser.hook('order-card').first().getAttribute('data-state'), 'paid')
    await loser.goto(`/sales/${sale.id}`)
    await loser.step('held')
    await Promise.all(people.map((p) => p.close()))
  })

  story('a double click buys once', async () => {
    const sale = await house.sale({ units: 5, per_buyer: 3 })
    const p = await Person.open(house)
    await house.customer('quick')
    await p.signIn('quick', `/sales/${sale.id}`)
    await p.step('open')
    await p.hook('buy').dblclick()
    await p.step('won')
    await until('the purchase is settled', async () => (await house.account(sale.id)).gate.unsettled === 0)
    assert.equal((await house.account(sale.id)).stock.reserved, 1)
    await p.close()
  })

  story('a page that is loaded again in the middle of a purchase finds its result', async () => {
    const sale = await house.sale({ units: 5 })
    const p = await Person.open(house)
    await house.customer('impatient')
    await p.signIn('impatient', `/sales/${sale.id}`)
    await p.step('open')
    // The answer is lost on its way; the server has sold.
    await p.page.route('**/purchases', async (route) => {
      await route.fetch()
      await route.abort()
    }, { times: 1 })
    await p.hook('buy').click()
    await until('the server sold', async () => (await house.account(sale.id)).stock.reserved === 1)
    await p.page.reload()
    await p.step('won')
    assert.equal((await house.account(sale.id)).stock.reserved, 1)
    await p.close()
  })

  story('the limit per buyer is told in words', async () => {
    const sale = await house.sale({ units: 5, per_buyer: 1 })
    const p = await Person.open(house, { allow: /Failed to load resource|ERR_FAILED/ })
    const api = await house.customer('greedy')
    await p.signIn('greedy', `/sales/${sale.id}`)
    await p.step('open')
    await p.page.route(/\/events|\/v1\/(notices|orders|reservations)/, (route) => route.abort()) // or the page would learn of it first
    await api.buy(sale.id) // in another window
    await p.hook('buy').click()
    await p.step('limit', 'won')
    assert.equal((await house.account(sale.id)).stock.reserved, 1)
    await p.close()
  })

  story('by the keyboard alone, from the home page to the paid order', async () => {
    const sale = await house.sale({ units: 3, title: 'For the keyboard', product: await house.product({ title: 'Keyboard kettle' }) })
    const p = await Person.open(house, { size: desktop })
    await house.customer('typist')
    await p.page.goto(`/sign-in?next=/`)
    await p.ready('sign-in')
    const press = (key) => p.page.keyboard.press(key)
    const focused = () => p.page.evaluate(() => document.activeElement?.closest('[data-test]')?.getAttribute('data-test') ?? document.activeElement?.tagName)
    /** Tabs until the element is reached, as a person would who sees where he is. */
    const reach = async (what, accept = (name) => name === what) => {
      for (let i = 0; i < 80; i++) {
        if (accept(await focused())) {
          const seen = await p.page.evaluate(() => {
            const e = document.activeElement
            const s = getComputedStyle(e)
            const box = e.getBoundingClientRect()
            return { outline: s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0, shadow: s.boxShadow !== 'none', inView: box.width > 0 && box.bottom > 0 && box.top < innerHeight }
          })
          assert.ok(seen.outline || seen.shadow, `${what} has the focus and does not show it`)
          assert.ok(seen.inView, `${what} has the focus and is out of sight`)
          return
        }
        await press('Tab')
      }
      throw new Error(`${what} cannot be reached by Tab; the focus is on ${await focused()}`)
    }
    await press('Tab')
    assert.equal(await focused(), 'skip', 'the first stop is the link to the content')
    await reach('name')
    await p.page.keyboard.type('typist')
    await reach('password')
    await p.page.keyboard.type('quiet-levee-at-dusk-41')
    await press('Enter')
    await p.ready('home')
    for (let i = 0; i < 60; i++) {
      const at = await p.page.evaluate(() => document.activeElement?.closest('[data-test="sale-card"]')?.getAttribute('data-sale'))
      if (at === sale.id) break
      await press('Tab')
    }
    await press('Enter')
    await p.step('open')
    await reach('buy')
    await press('Enter')
    await p.step('won')
    await reach('pay')
    await press('Enter')
    await p.page.waitForURL(/\/test-provider\//)
    for (let i = 0; i < 10 && (await p.page.evaluate(() => document.activeElement?.value)) !== 'pay'; i++) await press('Tab')
    await press('Enter')
    await p.page.locator('button[value="pay"]').waitFor({ state: 'detached' })
    for (let i = 0; i < 10 && !(await p.page.evaluate(() => document.activeElement?.matches('main > p a'))); i++) await press('Tab')
    await press('Enter')
    await p.page.locator('[data-test="order"][data-state="paid"]').waitFor()
    await p.close()
  })

  story('an order that nobody pays expires before one\'s eyes, and the unit is back', async () => {
    const { person, sale } = slow
    await person.page.locator('[data-test="order"][data-state="cancelled"]').waitFor({ timeout: 30_000 }) // without a reload
    await person.shot('order-expired')
    await until('the unit is free again', async () => (await house.account(sale.id)).stock.remaining === 1)
    const next = await Person.open(house)
    await next.goto(`/sales/${sale.id}`)
    await next.step('open')
    await next.close()
    person.check()
  })
})
