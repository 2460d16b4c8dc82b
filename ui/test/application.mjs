// The application on somebody's telephone that shows codes, and how it is set up in the shop.
import assert from 'node:assert/strict'
import { createHmac } from 'node:crypto'
import { until } from './house.mjs'

/** What an application does with the secret that a page shows (RFC 6238). */
export class Application {
  last = 0

  constructor(shown) {
    const base32 = shown.replace(/\s/g, '')
    assert.match(base32, /^[A-Z2-7]{32}$/)
    const bits = [...base32].map((c) => 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'.indexOf(c).toString(2).padStart(5, '0')).join('')
    this.secret = Buffer.from(bits.match(/.{8}/g).map((b) => parseInt(b, 2)))
  }

  at(step) {
    const counter = Buffer.alloc(8)
    counter.writeBigInt64BE(BigInt(step))
    const sum = createHmac('sha1', this.secret).update(counter).digest()
    return String((sum.readUInt32BE(sum[19] & 15) & 0x7fffffff) % 1_000_000).padStart(6, '0')
  }

  static now = () => Math.floor(Date.now() / 30_000)

  /** A code that was not shown before. The house takes the next step's, too, so that two of three need no waiting, and each is good for 30 s at least. */
  async code() {
    const step = Math.max(this.last + 1, Application.now())
    await until('the next code may be shown', () => Application.now() >= step - 1, 40_000)
    this.last = step
    return this.at(step)
  }

  /** A code that is wrong for certain. */
  wrong() {
    const near = new Set([-3, -2, -1, 0, 1, 2, 3, 4].map((d) => this.at(Application.now() + d)))
    for (let n = 0; ; n++) if (!near.has(String(n).padStart(6, '0'))) return String(n).padStart(6, '0')
  }
}

/** What stands in an element, without what is between. */
export const lines = async (locator) => (await locator.innerText()).split(/\s+/).filter(Boolean)

/** Sets an application up at the account in the shop; resolves to it and the recovery codes. */
export async function enrol(p) {
  await p.hook('totp-add').click()
  const app = new Application(await p.hook('totp-secret').innerText())
  await p.hook('totp-code').fill(await app.code())
  await p.hook('totp-confirm').click()
  const codes = await lines(p.hook('codes'))
  await p.hook('codes-kept').click()
  await p.page.locator('[data-test="factor-totp"][data-there="true"]').waitFor()
  return { app, codes }
}
