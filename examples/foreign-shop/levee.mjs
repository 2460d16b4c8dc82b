// What a shop needs to sell through Levee: tokens for its customers, calls to the API, and the check of a webhook's signature.
// Node 20, no dependencies.
import { createHmac, createPrivateKey, createPublicKey, generateKeyPairSync, randomUUID, sign, timingSafeEqual } from 'node:crypto'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'

const b64 = (x) => Buffer.from(x).toString('base64url')

// openKey reads the shop's Ed25519 key, or makes it at the first start. Levee sees its public half only (jwks).
export function openKey(file) {
  if (!existsSync(file)) {
    const { privateKey } = generateKeyPairSync('ed25519')
    writeFileSync(file, privateKey.export({ type: 'pkcs8', format: 'pem' }), { mode: 0o600 })
  }
  const key = createPrivateKey(readFileSync(file))
  const { x } = createPublicKey(key).export({ format: 'jwk' })
  return { key, jwk: { kty: 'OKP', crv: 'Ed25519', use: 'sig', alg: 'EdDSA', kid: x.slice(0, 16), x } }
}

// tokenFor makes the JWT with which a customer of the shop speaks to Levee. sub is the shop's own name for the customer: it comes
// back in every webhook as buyer.foreign_subject.
export function tokenFor({ key, jwk }, issuer, customer, seconds = 900) {
  const now = Math.floor(Date.now() / 1000)
  const head = b64(JSON.stringify({ alg: 'EdDSA', typ: 'JWT', kid: jwk.kid }))
  const claims = { iss: issuer, aud: 'levee', sub: customer.id, preferred_username: customer.name, iat: now, exp: now + seconds }
  const text = `${head}.${b64(JSON.stringify(claims))}`
  return `${text}.${b64(sign(null, Buffer.from(text), key))}`
}

// Levee calls the API. A call that changes something carries an idempotency key, so it may be sent again.
export class Levee {
  constructor(base, token) { Object.assign(this, { base, token }) }
  as(token) { return new Levee(this.base, token) }
  async call(method, path, body, headers = {}) {
    const text = typeof body === 'string'
    const answer = await fetch(this.base + path, {
      method,
      headers: {
        ...(this.token && { authorization: `Bearer ${this.token}` }),
        ...(body !== undefined && { 'content-type': text ? 'application/x-ndjson' : 'application/json' }),
        ...(method !== 'GET' && { 'idempotency-key': randomUUID() }), ...headers,
      },
      body: body === undefined || text ? body : JSON.stringify(body),
    })
    const read = await answer.text()
    const data = read ? JSON.parse(read) : null
    if (!answer.ok) throw Object.assign(new Error(`${method} ${path}: ${answer.status} ${data?.error} ${data?.detail ?? ''}`), { status: answer.status, code: data?.error })
    return data
  }
}

// verify returns a webhook's message, or throws: the signature is HMAC-SHA256 over "id.timestamp.body" (Standard Webhooks), by any of
// the signatures in the header, as there are two for a day after the secret was changed; the time keeps old messages from being
// played again.
export function verify(secret, headers, body, now = Date.now()) {
  const [id, at, given] = ['webhook-id', 'webhook-timestamp', 'webhook-signature'].map((name) => headers[name] ?? '')
  if (!/^\d+$/.test(at) || Math.abs(now / 1000 - at) > 300) throw new Error('the message is not of these minutes')
  const want = createHmac('sha256', Buffer.from(secret.replace(/^whsec_/, ''), 'base64')).update(`${id}.${at}.`).update(body).digest()
  const good = given.split(' ').some((s) => {
    const [version, sum] = s.split(',')
    const got = Buffer.from(sum ?? '', 'base64')
    return version === 'v1' && got.length === want.length && timingSafeEqual(got, want)
  })
  if (!good) throw new Error('the signature is wrong')
  return { id, ...JSON.parse(body) }
}
