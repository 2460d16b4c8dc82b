// The waiting room and its brakes.
import { after, before, describe } from 'node:test'
import assert from 'node:assert/strict'
import { House, until } from './house.mjs'
import { Person, browser, desktop, measure, phone, story } from './people.mjs'
import { picture } from './drawn.mjs'

describe('the waiting room', () => {
  let house
  before(async () => {
    house = await House.start()
  })
  after(() => house?.close())

  story('the position falls, and the place is kept over a reload, a closed page and another device', async () => {
    const product = await house.product({ title: 'Enamel kettle', description: 'Whistles in F sharp.', picture: picture(480, 360, [58, 134, 189], [207, 224, 232]) })
    const sale = await house.sale({ product, units: 100, title: 'Kettles for a crowd', admission: { room: true, per_second: 2, multiple: 100 } })
    const crowd = await house.customers(26)
    await Promise.all(crowd.map((c) => c.enter(sale.id)))
    const p = await Person.open(house, { size: phone })
    await house.customer('patient')
    await p.signIn('patient', `/sales/${sale.id}`)
    await p.step('open')
    await p.hook('enter').click()
    await p.step('room')
    const at = () => p.number('position', 'data-position')
    await until('there is a position', async () => (await at()) > 0)
    const first = await at()
    assert.ok(first > 1 && first <= 27, `position ${first}`)
    const number = (await p.hook('number').textContent()).replace(/\D/g, '')
    await p.accessible('the waiting room')
    await p.shot('room-phone')
    await p.picture('waiting-room')
    await until('the position falls', async () => (await at()) < first)

    const before = await at()
    await p.page.reload()
    await p.step('room')
    await until('there is a position again', async () => (await at()) > 0)
    assert.ok((await at()) <= before, `${before} before the reload, ${await at()} after it`)
    assert.equal((await p.hook('number').textContent()).replace(/\D/g, ''), number, 'the number is the same after a reload')

    // The page is closed and opened again; and the same person looks from another device.
    await p.page.close()
    p.page = await p.context.newPage()
    await p.page.goto(`/sales/${sale.id}`)
    await p.step('room', 'admitted')
    const other = await Person.open(house, { size: desktop })
    await other.signIn('patient', `/sales/${sale.id}`)
    const step = await other.step('room', 'admitted', 'open')
    if (step === 'room') {
      await until('there is a position on the other device', async () => (await other.number('position', 'data-position')) > 0)
      assert.equal((await other.hook('number').textContent()).replace(/\D/g, ''), number, 'the number is the same on another device')
    }
    await other.close()

    const line = await house.operator.get(`/v1/sales/${sale.id}`)
    assert.equal(line.phase, 'open')
    await p.page.locator('[data-test="sale"][data-step="admitted"]').waitFor({ timeout: 30_000 })
    await p.shot('room-admitted')
    await p.hook('buy').click()
    await p.step('won')
    await p.close()
  })

  story('before the start: lots are drawn among those who wait', async () => {
    const sale = await house.sale({ units: 10, starts: 5, title: 'Soon', admission: { room: true, order: 'random', per_second: 50 } })
    const p = await Person.open(house)
    await house.customer('early')
    await p.signIn('early', `/sales/${sale.id}`)
    await p.step('soon')
    await p.shot('sale-soon')
    await p.accessible('a sale that starts soon')
    await p.hook('enter').click()
    await p.step('room')
    assert.equal(await p.hook('position').getAttribute('data-position'), '', 'before the lots are drawn nobody has a position')
    await p.step('admitted') // after the start, by itself
    await p.hook('buy').click()
    await p.step('won')
    await p.close()
  })

  story('leaving gives the place up', async () => {
    const sale = await house.sale({ units: 10, admission: { room: true, per_second: 1, multiple: 1000 } })
    await Promise.all((await house.customers(20)).map((c) => c.enter(sale.id)))
    const p = await Person.open(house)
    const api = await house.customer('leaver')
    await p.signIn('leaver', `/sales/${sale.id}`)
    await p.step('open')
    await p.hook('enter').click()
    await p.step('room')
    await p.hook('leave').click()
    await p.hook('leave-yes').click()
    await p.step('open')
    await assert.rejects(api.get(`/v1/sales/${sale.id}/admissions/mine`), { status: 404 })
    await p.close()
  })

  story('work is done by the page itself', async () => {
    const sale = await house.sale({ units: 10, admission: { brake: 'work', work_bits: 14 } })
    const p = await Person.open(house)
    const requested = []
    p.page.on('request', (r) => requested.push(r.url()))
    await house.customer('worker')
    await p.signIn('worker', `/sales/${sale.id}`)
    await p.step('open')
    await p.hook('buy').or(p.hook('enter')).first().click()
    const step = await p.step('challenge', 'admitted', 'buying', 'won')
    if (step === 'challenge') assert.equal(await p.hook('challenge').getAttribute('data-kind'), 'work')
    if ((await p.step('admitted', 'won')) === 'admitted') await p.hook('buy').click()
    await p.step('won')

    // How fast the page's own worker is, for docs/admission.md. The policy lets nobody else start it, so it is switched off here.
    const script = requested.find((url) => /work\.worker/.test(url))
    const context = await (await browser()).newContext({ bypassCSP: true })
    const page = await context.newPage()
    await page.goto(house.base)
    const rate = await page.evaluate(
      (script) =>
        new Promise((done) => {
          const w = new Worker(script, { type: 'module' })
          let tries = 0
          let began = 0 // from the second word on: the worker's start is not its pace
          w.onmessage = (e) => {
            if (began) tries += e.data.tries
            else began = performance.now()
            const seconds = (performance.now() - began) / 1000
            if (seconds > 1.5) (w.terminate(), done(Math.round(tries / seconds)))
          }
          w.postMessage({ challenge: 'a'.repeat(64), bits: 200, start: 0, step: 1 })
        }),
      script,
    )
    await context.close()
    assert.ok(rate > 0)
    await measure('hashes_per_second', rate)
    await p.close()
  })

  story('a picture, and the way without sight', async () => {
    const sale = await house.sale({ units: 10, admission: { brake: 'picture', work_bits: 12 } })
    const p = await Person.open(house)
    await house.customer('unseeing')
    await p.signIn('unseeing', `/sales/${sale.id}`)
    await p.step('open')
    await p.hook('buy').or(p.hook('enter')).first().click()
    await p.step('challenge')
    assert.equal(await p.hook('challenge').getAttribute('data-kind'), 'picture')
    await until('the picture is there', () => p.hook('challenge-picture').evaluate((i) => i.complete && i.naturalWidth > 50))
    await p.accessible('a picture to read')
    await p.shot('challenge-picture')
    await p.hook('challenge-answer').fill('00000')
    await p.hook('challenge-send').click()
    await p.hook('challenge').getByRole('alert').waitFor() // says that it was wrong, and shows another
    await p.step('challenge')
    await p.hook('challenge-other').click() // without sight
    if ((await p.step('admitted', 'won')) === 'admitted') await p.hook('buy').click()
    await p.step('won')
    await p.close()
  })
})
