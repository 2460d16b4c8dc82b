// A draw: entries, the result, and the next in line.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { House, root, until } from './house.mjs'
import { Person, desktop, phone, story } from './people.mjs'

describe('a draw', () => {
  let house
  before(async () => {
    house = await House.start()
  })
  after(() => house?.close())

  story('two enter for one unit; the other is next in line and gets what the winner gives up', async () => {
    const sale = await house.sale({ units: 1, starts: 4, draws: 10, title: 'By lot', product: await house.product({ title: 'Paper parasol' }) })
    const people = await Promise.all(
      [phone, desktop].map(async (size, i) => {
        const p = await Person.open(house, { size })
        await house.customer(`lot-${i}`)
        await p.signIn(`lot-${i}`, `/sales/${sale.id}`)
        return p
      }),
    )
    for (const p of people) await p.step('draw-soon', 'draw-entry')
    for (const p of people) await p.step('draw-entry') // opens before one's eyes
    await people[0].accessible('the entries of a draw')
    await people[0].shot('draw-entry')
    for (const p of people) await p.hook('draw-enter').click()
    for (const p of people) await p.step('draw-entered')
    const seedHash = await people[0].hook('draw-seed-hash').textContent()
    assert.match(seedHash, /[0-9a-f]{64}/, 'the hash of the seed is there before the draw')
    await people[1].shot('draw-entered')
    await people[0].page.reload()
    await people[0].step('draw-entered', 'draw-closed')

    const results = await Promise.all(people.map((p) => until('the draw has a result', () => p.step('won', 'offered', 'line'), 30_000)))
    const winners = results.filter((s) => s !== 'line')
    assert.equal(winners.length, 1, `one unit, and the steps are ${results}`)
    const winner = people[results.findIndex((s) => s !== 'line')]
    const other = people[results.indexOf('line')]
    assert.equal(await other.number('line-position', 'data-position'), 1)
    await winner.shot('draw-won')
    await other.shot('draw-line')
    await winner.accessible('the page of who was drawn')
    await other.accessible('the page of who is next in line')

    // Anybody can run it again.
    const proof = spawnSync(process.env.LEVEE_BIN ?? join(root, 'bin', 'levee'), ['draw', 'verify', '--server', house.base, '--sale', sale.id], { encoding: 'utf8', cwd: house.dir })
    assert.equal(proof.status, 0, proof.stdout + proof.stderr)

    const order = await winner.hook('order-number').getAttribute('data-order')
    const api = await house.signIn(results[0] === 'line' ? 'lot-1' : 'lot-0')
    await api.post(`/v1/orders/${order}/cancellation`, { reason: 'changed his mind' })
    await other.step('offered', 'won') // the next in line, without a reload
    await other.hook('pay').click()
    await other.payAtProvider()
    await other.page.locator('[data-test="order"][data-state="paid"]').waitFor()
    assert.equal((await house.account(sale.id)).stock.sold, 1)
    await Promise.all(people.map((p) => p.close()))
  })
})
