// A shop that has its own customers, products and orders, and lets Levee run its flash sale. See README.md.
import { createServer } from 'node:http'
import { randomBytes } from 'node:crypto'
import { mkdirSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { setTimeout as sleep } from 'node:timers/promises'
import { Levee, openKey, tokenFor, verify } from './levee.mjs'

const { values: args } = parseArgs({
  options: {
    levee: { type: 'string', default: 'http://127.0.0.1:8080' }, operator: { type: 'string', default: 'operator' },
    port: { type: 'string', default: '18480' }, data: { type: 'string', default: 'shop-data' },
    down: { type: 'string', default: '2' }, stay: { type: 'boolean', default: false },
  },
})
const here = `http://127.0.0.1:${args.port}`
mkdirSync(args.data, { recursive: true })
const key = openKey(`${args.data}/key.pem`)

// The shop's own books. A real shop has a database, and writes "seen" and the order in one transaction.
const customers = ['ada', 'bo', 'chen', 'dora', 'emil', 'fay', 'gus', 'hua'].map((name, i) => ({ id: `c-${i + 1}`, name, password: `${name}-secret` }))
const products = [{ product_code: 'TEAPOT', title: 'Clay teapot', state: 'on_sale', sku_code: 'TEAPOT-1', price_minor: 12900, currency: 'CNY', on_hand: 20 }]
const orders = new Map() // Levee's order id → what the shop knows of it
const seen = new Set() // webhook ids that were handled
const sessions = new Map() // cookie → customer
const tally = { refused: 0, whileDown: 0, repeats: 0, late: 0 }
let secret = '', down = false, sale = null

// handle takes one message of Levee into the books. A message may come twice (its id is known then), and of one order the steps
// come in order; version is there to prove it.
function handle(message) {
  if (seen.has(message.id)) return void tally.repeats++
  seen.add(message.id)
  const d = message.data
  if (!message.type.startsWith('order.')) return
  const known = orders.get(d.order) ?? { version: 0, steps: [] }
  if (d.version <= known.version) return void tally.late++
  const state = { 'order.created': 'won', 'order.completed': 'delivered' }[message.type] ?? message.type.slice('order.'.length)
  const [line] = d.lines
  orders.set(d.order, { customer: d.buyer.foreign_subject, title: line.title, quantity: line.quantity, amount: d.total.amount,
    state, version: d.version, steps: [...known.steps, message.type] })
  say(`  webhook ${message.type.padEnd(16)} ${d.buyer.foreign_subject}  →  ${state}`)
}

const say = (...words) => console.log(...words)
const readBody = async (request) => {
  let text = ''
  for await (const part of request.setEncoding('utf8')) if ((text += part).length > 1 << 20) throw new Error('too large')
  return text
}

const routes = {
  // Levee reads the shop's public keys here.
  'GET /.well-known/jwks.json': (_, answer) => answer(200, { keys: [key.jwk] }),
  // Levee tells the shop of its orders here. Answer 2xx only when it is in the books.
  'POST /webhooks/levee': async (request, answer) => {
    const body = await readBody(request)
    if (down) return void (tally.whileDown++, answer(503, 'closed for a moment'))
    try {
      handle(verify(secret, request.headers, body))
      answer(204)
    } catch (error) {
      tally.refused++
      answer(401, { error: error.message })
    }
  },
  // The shop's own sign-in, as it always was.
  'POST /sign-in': async (request, answer) => {
    const { name, password } = JSON.parse(await readBody(request))
    const customer = customers.find((c) => c.name === name && c.password === password)
    if (!customer) return answer(401, { error: 'wrong name or password' })
    const id = randomBytes(18).toString('base64url')
    sessions.set(id, customer)
    answer(200, { name }, { 'set-cookie': `shop=${id}; HttpOnly; SameSite=Strict; Path=/` })
  },
  // A signed-in customer gets the token with which the page speaks to Levee.
  'POST /levee-token': (request, answer) => {
    const customer = sessions.get(/(?:^|; )shop=([^;]+)/.exec(request.headers.cookie ?? '')?.[1])
    customer ? answer(200, { token: tokenFor(key, here, customer) }, { 'cache-control': 'no-store' }) : answer(401, { error: 'sign in first' })
  },
  'GET /': (_, answer) => answer(200, page(), { 'content-type': 'text/html; charset=utf-8' }),
  'GET /orders': (_, answer) => answer(200, Object.fromEntries(orders)),
}

const server = createServer(async (request, response) => {
  const answer = (status, body, headers = {}) => {
    const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body)
    response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(text)
  }
  const route = routes[`${request.method} ${request.url.split('?')[0]}`]
  try {
    await (route ? route(request, answer) : answer(404, { error: 'not found' }))
  } catch (error) {
    answer(400, { error: error.message })
  }
})

// What the shop's page does in a browser; buy() below does the same for the scripted day.
const page = () => `<!doctype html><meta charset="utf-8"><title>Teapots</title><h1>Clay teapot</h1>
<form id="in"><input name="name" value="ada"> <input name="password" type="password"> <button>Sign in</button></form>
<p><button id="buy" disabled>Buy one</button> <output id="said"></output></p>
<script type="module">
const post = (url, body, headers) => fetch(url, { method: 'POST', body: body && JSON.stringify(body), headers: { 'content-type': 'application/json', ...headers } })
const say = (text) => { document.getElementById('said').textContent = text }
const levee = ${JSON.stringify(args.levee)} + '/v1/sales/' + ${JSON.stringify(sale?.id ?? '')}
let token
document.getElementById('in').onsubmit = async (event) => {
  event.preventDefault()
  const signedIn = await post('/sign-in', Object.fromEntries(new FormData(event.target)))
  if (!signedIn.ok) return say('Wrong name or password')
  token = (await (await post('/levee-token')).json()).token
  document.getElementById('buy').disabled = false
}
document.getElementById('buy').onclick = async () => {
  const mine = { authorization: 'Bearer ' + token }
  const admission = await (await post(levee + '/admissions', undefined, mine)).json()
  const answer = await post(levee + '/purchases', { quantity: 1 }, { ...mine, 'levee-admission': admission.token, 'idempotency-key': crypto.randomUUID() })
  const order = await answer.json()
  say(answer.ok ? 'Yours: ' + order.order : order.detail)
}
</script>`

// signIn is what a customer's browser does at the shop: sign in, then ask for the token.
async function signIn({ name, password }) {
  const first = await fetch(`${here}/sign-in`, { method: 'POST', body: JSON.stringify({ name, password }) })
  const second = await fetch(`${here}/levee-token`, { method: 'POST', headers: { cookie: first.headers.get('set-cookie').split(';')[0] } })
  return (await second.json()).token
}

async function buy(levee) {
  const admission = await levee.call('POST', `/v1/sales/${sale.id}/admissions`)
  for (;;) {
    try {
      return (await levee.call('POST', `/v1/sales/${sale.id}/purchases`, { quantity: 1 }, { 'levee-admission': admission.token })).order
    } catch (error) {
      if (error.code === 'sold_out') return null
      if (error.code !== 'not_open') throw error
      await sleep(100) // a moment early: press again
    }
  }
}

async function pay(levee, order) {
  const { redirect_url } = await levee.call('POST', `/v1/orders/${order}/payments`, { provider: 'test' })
  const pressed = await fetch(redirect_url, { method: 'POST', body: new URLSearchParams({ action: 'pay' }) })
  if (!pressed.ok) throw new Error(`the payment page answered ${pressed.status}`)
}

async function until(what, most, test) {
  for (const end = Date.now() + most * 1000; !(await test()); await sleep(100)) if (Date.now() > end) throw new Error(`not within ${most} s: ${what}`)
}

const check = (what, good) => {
  say(`${good ? '✓' : '✗'} ${what}`)
  if (!good) process.exitCode = 1
}

// prepare brings the products in, asks to be told of orders, and opens the sale.
async function prepare(operator) {
  const done = await operator.call('POST', '/v1/products/import', products.map((p) => JSON.stringify(p)).join('\n'))
  const { items } = await operator.call('GET', '/v1/products?limit=100')
  const sku = items.flatMap((p) => p.skus).find((s) => s.code === products[0].sku_code)
  say(`products: ${done.lines} line in, ${products[0].sku_code} is ${sku.id}`)
  for (const old of (await operator.call('GET', '/v1/webhooks')).items.filter((w) => w.url.startsWith(here))) await operator.call('DELETE', old.links.self) // of an earlier day
  const hook = await operator.call('POST', '/v1/webhooks', { url: `${here}/webhooks/levee`, events: ['order.*', 'sale.*', 'line.*'], description: 'The shop' })
  secret = hook.secret
  sale = await operator.call('POST', '/v1/sales', { title: 'Teapots at noon', sku: sku.id, price: { amount: 9900, currency: 'CNY' }, units: 5, per_buyer: 1,
    starts_at: new Date(Date.now() + 1500), ends_at: new Date(Date.now() + 3600_000), pay_within_seconds: 600 })
  await operator.call('POST', `/v1/sales/${sale.id}/acts`, { act: 'schedule', reason: 'the shop opens' })
  say(`sale: ${sale.id}, 5 units, opens at ${sale.starts_at}`)
  return hook
}

async function day(operator) {
  const hook = await prepare(operator)
  const buyers = await Promise.all(customers.map(async (c) => ({ ...c, levee: operator.as(await signIn(c)) })))
  say(`${buyers.length} customers signed in at the shop`)
  const forged = tokenFor({ ...key, key: openKey(`${args.data}/thief.pem`).key }, here, customers[0])
  check('a token that the shop did not sign is refused', await operator.as(forged).call('GET', '/v1/me').then(() => false, (e) => e.status === 401))
  await until('the sale is open', 30, async () => (await operator.call('GET', `/v1/sales/${sale.id}`)).phase === 'open')

  down = Number(args.down) > 0 // the shop's receiver is away just when it matters
  await Promise.all(buyers.map(async (b) => { b.order = await buy(b.levee) }))
  const winners = buyers.filter((b) => b.order), losers = buyers.filter((b) => !b.order)
  check(`5 of 8 won: ${winners.map((b) => b.name).join(', ')}`, winners.length === 5)
  const next = losers[0]
  await next.levee.call('POST', `/v1/sales/${sale.id}/line`, { quantity: 1 })
  say(`${next.name} waits for a unit that comes back`)
  await Promise.all(winners.slice(0, 3).map((b) => pay(b.levee, b.order)))
  await winners[3].levee.call('POST', `/v1/orders/${winners[3].order}/cancellation`, { reason: 'bought by mistake' })
  await until('the unit was offered to the next in line', 20, async () => {
    next.order = (await next.levee.call('GET', `/v1/sales/${sale.id}/line/mine`)).offer?.order
    return next.order
  })
  await pay(next.levee, next.order)
  say(`3 paid, ${winners[3].name} gave up, ${next.name} was next and paid, ${winners[4].name} still thinks`)
  await sleep(Number(args.down) * 1000)
  down = false
  say(`the receiver was down and turned ${tally.whileDown} messages away; it is back`)

  const all = async () => (await operator.call('GET', `/v1/orders?sale=${sale.id}&limit=100`)).items
  const expected = { created: 'won', done: 'delivered' }
  const agree = (list) => list.length === orders.size && list.every((o) => orders.get(o.id)?.state === (expected[o.state] ?? o.state))
  await until('the books agree', 60, async () => agree(await all())).catch((error) => say(error.message))
  const list = await all()
  check(`the shop's ${orders.size} orders are Levee's ${list.length}, each in the same state`, agree(list) && list.length === 6)
  check('each is its customer\'s', buyers.filter((b) => b.order).every((b) => orders.get(b.order)?.customer === b.id))
  check('each was told in order', [...orders.values()].every((o) => ['order.created', 'order.created,order.paid', 'order.created,order.cancelled'].includes(o.steps.join())) && tally.late === 0)
  check('four were paid', [...orders.values()].filter((o) => o.state === 'paid').length === 4)
  const before = tally.refused
  const fake = await fetch(`${here}/webhooks/levee`, { method: 'POST', body: '{"type":"order.paid","data":{}}',
    headers: { 'webhook-id': 'dlv_x', 'webhook-timestamp': `${Math.floor(Date.now() / 1000)}`, 'webhook-signature': 'v1,AAAA' } })
  check('a webhook that Levee did not sign is refused, and none of Levee\'s was', fake.status === 401 && before === 0)
  let health
  await until('nothing waits', 30, async () => (health = (await operator.call('GET', hook.links.self)).health).waiting === 0).catch(() => {})
  check(`Levee says the webhook is ${health.state}, ${health.waiting} waiting`, health.state === 'ok' && health.waiting === 0)
}

async function operatorToken() {
  if (process.env.LEVEE_TOKEN) return process.env.LEVEE_TOKEN
  const grant = await new Levee(args.levee).call('POST', '/v1/sessions', { name: args.operator, password: process.env.LEVEE_PASSWORD ?? '' })
  return grant.access_token
}

server.listen(Number(args.port), '127.0.0.1', async () => {
  try {
    const operator = new Levee(args.levee, await operatorToken())
    if (args.stay) {
      await prepare(operator)
      say(`the shop is open: ${here}  (stop with Ctrl-C)`)
      return
    }
    await day(operator)
    say(process.exitCode ? 'NOT all agree' : 'all agree')
  } catch (error) {
    say(`✗ ${error.message}`)
    process.exitCode = 1
  }
  server.close()
  server.closeAllConnections()
})
