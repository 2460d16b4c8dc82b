// A measurement, not a test of `make test`: a person buys in a browser while a crowd stands in the same waiting room.
//
//   make crowd                 CROWD=50000 PACE=500
//
// The crowd is `levee rehearse --queue`, in a process of its own, at a copy of the sale; the person is an operator, who may take part
// in a rehearsal. Told are his positions, how long the page's calls took, and what became of him. It fails when his position ever
// rises, when he does not get his order, or when the rehearsal's audit fails.
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import assert from 'node:assert/strict'
import { House, password, root, sleep } from './house.mjs'
import { Person, closeBrowser, desktop, measure } from './people.mjs'

const crowd = Number(process.env.CROWD ?? 50_000)
const pace = Number(process.env.PACE ?? 500)
const arrival = 15 // seconds in which the crowd comes

const house = await House.start()
const units = Math.min(2 * crowd, 99_000)
const sale = await house.sale({ units, title: 'Lanterns for a crowd', admission: { room: true, per_second: pace, multiple: 10 } })

let said = ''
const rehearsal = spawn(
  process.env.LEVEE_BIN ?? join(root, 'bin', 'levee'),
  ['rehearse', '--server', house.base, '--user', 'operator', '--sale', sale.id, '--queue', String(crowd), '--units', String(units),
    '--duration', `${arrival}s`, '--patience', '10m', '--settle', '10m', '--report', join(house.dir, 'crowd.html')],
  { env: { ...process.env, LEVEE_PASSWORD: password } },
)
rehearsal.stdout.on('data', (d) => (said += d))
rehearsal.stderr.on('data', (d) => (said += d))
const ended = new Promise((resolve) => rehearsal.on('exit', resolve))
process.on('exit', (code) => {
  rehearsal.kill()
  if (code) console.error(said)
})

// The copy is the newest rehearsal; it opens when the crowd is ready.
let copy
while (!copy) {
  assert.equal(rehearsal.exitCode, null, `the rehearsal ended early:\n${said}`)
  const { items: sales } = await house.operator.get('/v1/sales')
  copy = sales.find((s) => s.rehearsal && s.phase === 'open')
  await sleep(200)
}

const person = await Person.open(house, { size: desktop })
const calls = []
person.page.on('requestfinished', (request) => {
  const url = new URL(request.url())
  const { responseEnd, requestStart } = request.timing()
  if (url.pathname.startsWith('/v1/') && !url.pathname.endsWith('/events') && responseEnd >= 0)
    calls.push({ call: `${request.method()} ${url.pathname.replace(/(sal|ord|rsv|prd|pic|usr)_\w+/g, '{id}')}`, ms: responseEnd - requestStart })
})
await person.signIn('operator', `/sales/${copy.id}`)
await person.step('open')
await sleep(arrival * 1000) // everybody else is there before him
await person.hook('enter').click()
await person.step('room')

// One page asks too seldom for a percentile: what it asks is asked again and again from inside it, as many people's pages would.
const asking = person.page.evaluate(async (sale) => {
  for (;;) {
    for (const path of ['', '/admissions/mine']) await fetch(`/v1/sales/${sale}${path}`).then((r) => r.text())
    await new Promise((next) => setTimeout(next, 250))
  }
}, copy.id)
asking.catch(() => {}) // the page goes away under it
const positions = []
const began = Date.now()
while ((await person.page.locator('[data-test="sale"]').getAttribute('data-step')) === 'room') {
  const position = Number((await person.hook('position').getAttribute('data-position', { timeout: 1000 }).catch(() => '')) || 0)
  if (position > 0 && position !== positions.at(-1)?.position) positions.push({ seconds: (Date.now() - began) / 1000, position })
  await sleep(250)
}
await person.step('admitted')
const waited = (Date.now() - began) / 1000
const pressed = Date.now()
await person.hook('buy').click()
await person.step('won')
const bought = Date.now() - pressed
await person.leave()
await closeBrowser()
assert.equal(await ended, 0, `the rehearsal's audit failed:\n${said}`)

console.log(said)
const rises = positions.filter((p, i) => i > 0 && p.position > positions[i - 1].position)
const sorted = calls.map((c) => c.ms).sort((a, b) => a - b)
const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]
await measure('crowd', {
  crowd, pace, waited_seconds: waited, purchase_ms: bought, positions: positions.length, first: positions[0]?.position, last: positions.at(-1)?.position,
  calls: calls.length, calls_ms: { p50: at(0.5), p90: at(0.9), p99: at(0.99), max: sorted.at(-1) },
  slowest: calls.sort((a, b) => b.ms - a.ms).slice(0, 5),
})
await house.close()
assert.ok(positions.length > 2, 'the position hardly moved')
assert.deepEqual(rises, [], 'the position rose')
