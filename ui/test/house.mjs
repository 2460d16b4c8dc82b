// A house for a test: the real program on a free port in a temporary folder, with accounts, products and sales made over its API.
import { spawn } from 'node:child_process'
import { createServer } from 'node:net'
import { mkdtemp, rm } from 'node:fs/promises'
import { existsSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'
import { createHash, randomUUID } from 'node:crypto'

export const root = fileURLToPath(new URL('../..', import.meta.url))
const program = process.env.LEVEE_BIN ?? join(root, 'bin', 'levee')

export const password = 'quiet-levee-at-dusk-41'

// What people do by hand is slow enough; what a test does is not limited. Passwords are hashed cheaply: what is proved here does
// not hang on their cost.
const quick = {
  identity: { hash_memory: 8192, hash_time: 1 },
  payment: { sandbox: { enabled: true } },
  order: { grace: '1s' },
  log: { level: 'warn' },
  limits: {
    rates: Object.fromEntries(
      ['sign_in', 'sign_in_account', 'sign_up', 'read', 'write', 'purchase', 'admission', 'poll', 'import', 'connect'].map((n) => [n, 'off']),
    ),
  },
  live: { max_per_client: 1000 },
}

function environ(config, prefix = 'LEVEE_') {
  return Object.entries(config).flatMap(([key, v]) =>
    typeof v === 'object' ? environ(v, `${prefix}${key.toUpperCase()}__`) : [[prefix + key.toUpperCase(), String(v)]],
  )
}

const merged = (a, b) => {
  const out = { ...a }
  for (const [k, v] of Object.entries(b ?? {})) out[k] = typeof v === 'object' && typeof a[k] === 'object' ? merged(a[k], v) : v
  return out
}

/** A port that was free a moment ago. It is kept over restarts, so that pages find the house again. */
const freePort = () =>
  new Promise((resolve, reject) => {
    const s = createServer()
    s.on('error', reject)
    s.listen(0, '127.0.0.1', () => {
      const { port } = s.address()
      s.close(() => resolve(port))
    })
  })

/** What the API refused. */
export class Refused extends Error {
  constructor(method, path, status, body) {
    super(`${method} ${path} answered ${status}: ${typeof body === 'string' ? body.slice(0, 300) : JSON.stringify(body).slice(0, 600)}`)
    this.status = status
    this.body = body
    this.code = body?.error
  }
}

/** Somebody who talks to the house as a program. */
export class Api {
  constructor(base, token) {
    this.base = base
    this.token = token
  }

  async call(method, path, body, headers = {}) {
    const h = { ...headers }
    if (this.token) h.Authorization = `Bearer ${this.token}`
    if (method !== 'GET' && !h['Idempotency-Key']) h['Idempotency-Key'] = randomUUID()
    let payload = body
    if (body !== undefined && !(body instanceof Uint8Array) && typeof body !== 'string') {
      payload = JSON.stringify(body)
      h['Content-Type'] = 'application/json'
    }
    const r = await fetch(this.base + path, { method, headers: h, body: payload })
    const text = await r.text()
    let value = text
    if (/json/.test(r.headers.get('Content-Type') ?? '') && !/jsonl/.test(r.headers.get('Content-Type'))) value = JSON.parse(text)
    if (!r.ok) throw new Refused(method, path, r.status, value)
    return value
  }

  get = (path) => this.call('GET', path)
  post = (path, body, headers) => this.call('POST', path, body, headers)
  delete = (path) => this.call('DELETE', path)

  /** Asks for admission, doing the work where the sale wants it. Resolves to the answer, admitted or waiting. */
  async enter(sale) {
    try {
      return await this.post(`/v1/sales/${sale}/admissions`, {})
    } catch (e) {
      if (e.code !== 'challenge_required') throw e
      const c = await this.post(`/v1/sales/${sale}/challenges`, { kind: 'work' })
      return this.post(`/v1/sales/${sale}/admissions`, { proof: { challenge: c.challenge, answer: solve(c.challenge, c.bits) } })
    }
  }

  /** Buys as a program does. */
  async buy(sale, quantity = 1) {
    const { token, status } = await this.enter(sale)
    if (status && status !== 'admitted') throw new Error(`still ${status}`)
    return this.post(`/v1/sales/${sale}/purchases`, { quantity }, { 'Levee-Admission': token })
  }
}

/** The proof of work by its definition. */
export function solve(challenge, bits) {
  for (let n = 0; ; n++) {
    const sum = createHash('sha256').update(`${challenge}.${n}`).digest()
    if (Math.clz32(sum.readUInt32BE(0)) >= bits) return String(n)
  }
}

const running = new Set()
const folders = new Set()
process.on('exit', () => {
  // A run that was broken off leaves nothing behind.
  for (const p of running) p.kill('SIGKILL')
  for (const dir of folders) rmSync(dir, { recursive: true, force: true })
})

export class House {
  /** Passkeys need a host that is a name: localhost is one. config may hang on where the house will be. */
  static async start(config = {}, host = '127.0.0.1') {
    if (!existsSync(program)) throw new Error(`${program} is not built: make build`)
    const h = new House()
    folders.add((h.dir = await mkdtemp(join(tmpdir(), 'levee-browser-'))))
    h.port = await freePort()
    h.base = `http://${host}:${h.port}`
    if (typeof config === 'function') config = await config(h.base)
    const clean = Object.entries(process.env).filter(([k]) => !k.startsWith('LEVEE_')) // the caller's own house is not this one
    h.env = { ...Object.fromEntries(clean), ...Object.fromEntries(environ(merged(merged(quick, config), host === '127.0.0.1' ? {} : { http: { public_url: h.base } }))) }
    await h.run()
    h.visitor = new Api(h.base)
    const code = /\(POST \/v1\/setup\): (\S+)/.exec(h.said)?.[1]
    await h.visitor.post('/v1/setup', { code, name: 'administrator', password })
    h.admin = await h.signIn('administrator')
    await h.admin.post('/v1/users', { name: 'operator', password, roles: ['customer', 'operator'] })
    h.operator = await h.signIn('operator')
    return h
  }

  /** Starts the program, also again after stop or kill: on the same port, over the same data. */
  async run() {
    this.said = ''
    const p = spawn(program, ['serve', '--addr', `127.0.0.1:${this.port}`, '--data', join(this.dir, 'data')], { env: this.env, cwd: this.dir })
    this.process = p
    running.add(p)
    p.on('exit', () => running.delete(p))
    this.over = new Promise((resolve) => p.on('exit', resolve))
    const said = (chunk) => (this.said += chunk)
    p.stdout.on('data', said)
    p.stderr.on('data', said)
    p.on('error', said)
    for (let i = 0; ; i++) {
      if (p.exitCode !== null || i > 400) throw new Error(`the house does not start:\n${this.said}`)
      try {
        if (/Levee serves at/.test(this.said) && (await fetch(`${this.base}/v1/time`)).ok) return
      } catch {
        // not yet
      }
      await sleep(25)
    }
  }

  async stop(signal = 'SIGTERM') {
    this.process.kill(signal)
    await this.over
  }

  /** Ends the house and removes its data. A defect that it logged fails the test; allow is a pattern of errors that this test means to cause. */
  async close(allow) {
    await this.stop()
    await rm(this.dir, { recursive: true, force: true })
    folders.delete(this.dir)
    const bad = this.said.split('\n').filter((l) => /"level":"ERROR"|^panic|DATA RACE/.test(l) && !allow?.test(l))
    if (bad.length) throw new Error(`the house logged errors:\n${bad.slice(0, 10).join('\n')}`)
  }

  async signIn(name) {
    const { access_token: token, user } = await this.visitor.post('/v1/sessions', { name, password })
    const api = new Api(this.base, token)
    api.name = name
    api.id = user.id
    return api
  }

  count = 0
  async customer(name = `buyer-${++this.count}`) {
    await this.visitor.post('/v1/users', { name, password })
    return this.signIn(name)
  }

  /** Many at once. */
  customers = (n) => Promise.all(Array.from({ length: n }, () => this.customer()))

  async product(p = {}) {
    const n = ++this.count
    const { picture, alt, ...rest } = p
    const made = await this.operator.post('/v1/products', {
      title: `Lantern ${n}`,
      description: 'A folding lantern.',
      state: 'on_sale',
      skus: [{ code: `SKU-${n}`, name: `Lantern ${n}`, price: { amount: 12900, currency: 'CNY' }, on_hand: 100_000 }],
      ...rest,
    })
    if (picture) await this.operator.post(`/v1/products/${made.id}/pictures?alt=${encodeURIComponent(alt ?? made.title)}`, picture)
    return made
  }

  /** A sale that is scheduled. starts and ends are seconds from now. */
  async sale({ product, starts = -1, ends = starts + 3600, draws, schedule = true, ...terms } = {}) {
    const p = product ?? (await this.product())
    const at = (s) => new Date(Date.now() + s * 1000).toISOString()
    const made = await this.operator.post('/v1/sales', {
      title: `Sale of ${p.title}`.slice(0, 100),
      sku: p.skus[0].id,
      price: { amount: 6400, currency: 'CNY' },
      units: 10,
      per_buyer: 1,
      starts_at: at(starts),
      ends_at: at(ends),
      ...(draws === undefined ? {} : { mode: 'draw', draw_at: at(draws) }),
      ...terms,
    })
    if (schedule) await this.act(made.id, 'schedule')
    return { ...made, product: p }
  }

  act = (sale, act, units) => this.operator.post(`/v1/sales/${sale}/acts`, { act, reason: 'for a test', ...(units ? { units } : {}) })

  account = (sale) => this.operator.get(`/v1/sales/${sale}/account`)

  /** Pays an order at the test provider, as a person would. */
  async pay(api, order) {
    const { redirect_url: url } = await api.post(`/v1/orders/${order}/payments`, { provider: 'test' })
    const r = await fetch(url, { method: 'POST', body: new URLSearchParams({ action: 'pay' }) })
    if (!r.ok) throw new Error(`the test provider answered ${r.status}`)
  }
}

/** Asks until f gives something that is not false; fails with what after the time. */
export async function until(what, f, ms = 10_000) {
  const end = Date.now() + ms
  for (let last; ; ) {
    try {
      const v = await f()
      if (v) return v
      last = v
    } catch (e) {
      last = e
    }
    if (Date.now() > end) throw new Error(`${what}: not within ${ms / 1000} s (${last instanceof Error ? last.message : JSON.stringify(last)})`)
    await sleep(50)
  }
}

export { sleep }
