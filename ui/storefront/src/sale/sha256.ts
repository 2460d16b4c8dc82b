// SHA-256 (FIPS 180-4), for one text whose last digits change a million times: what stays the same is hashed once. The browser's own
// digest is asynchronous, and each call costs more than a hundred hashes here.

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes, and of the square roots of the first 8.
const primes: number[] = []
for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p !== 0)) primes.push(n)
const fraction = (x: number): number => ((x - Math.floor(x)) * 0x1_0000_0000) | 0
const k = Int32Array.from(primes, (p) => fraction(Math.cbrt(p)))
const first = Int32Array.from(primes.slice(0, 8), (p) => fraction(Math.sqrt(p)))

const w = new Int32Array(64)

/** Takes one block of 64 bytes at the offset into the state. */
function compress(state: Int32Array, data: DataView, at: number): void {
  for (let i = 0; i < 16; i++) w[i] = data.getInt32(at + i * 4)
  for (let i = 16; i < 64; i++) {
    const x = w[i - 15]!
    const y = w[i - 2]!
    const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3)
    const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10)
    w[i] = (w[i - 16]! + s0 + w[i - 7]! + s1) | 0
  }
  let a = state[0]!
  let b = state[1]!
  let c = state[2]!
  let d = state[3]!
  let e = state[4]!
  let f = state[5]!
  let g = state[6]!
  let h = state[7]!
  for (let i = 0; i < 64; i++) {
    const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7))
    const t1 = (h + s1 + ((e & f) ^ (~e & g)) + k[i]! + w[i]!) | 0
    const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10))
    const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0
    h = g
    g = f
    f = e
    e = (d + t1) | 0
    d = c
    c = b
    b = a
    a = (t1 + t2) | 0
  }
  state[0] = (state[0]! + a) | 0
  state[1] = (state[1]! + b) | 0
  state[2] = (state[2]! + c) | 0
  state[3] = (state[3]! + d) | 0
  state[4] = (state[4]! + e) | 0
  state[5] = (state[5]! + f) | 0
  state[6] = (state[6]! + g) | 0
  state[7] = (state[7]! + h) | 0
}

/** Hashes a fixed beginning followed by decimal numbers of up to 16 digits. */
export class Hasher {
  private readonly middle = first.slice()
  private readonly bytes: Uint8Array
  private readonly view: DataView
  private readonly kept: number // bytes of the beginning in the last blocks
  private readonly total: number
  private readonly state = new Int32Array(8)
  private digits = -1
  private blocks = 1

  constructor(beginning: string) {
    const text = new TextEncoder().encode(beginning)
    const whole = text.length - (text.length % 64)
    const view = new DataView(text.buffer)
    for (let at = 0; at < whole; at += 64) compress(this.middle, view, at)
    this.kept = text.length - whole
    this.total = text.length
    this.bytes = new Uint8Array(192)
    this.view = new DataView(this.bytes.buffer)
    this.bytes.set(text.subarray(whole))
  }

  /** The first eight words of the hash; the array is used again by the next call. */
  hash(n: number): Int32Array {
    let digits = 1
    for (let m = n; m >= 10; m = Math.floor(m / 10)) digits++
    const end = this.kept + digits
    if (digits !== this.digits) {
      this.digits = digits
      this.blocks = end + 9 > 128 ? 3 : end + 9 > 64 ? 2 : 1
      this.bytes.fill(0, this.kept)
      this.bytes[end] = 0x80
      const bits = (this.total + digits) * 8
      this.view.setUint32(this.blocks * 64 - 4, bits >>> 0)
      this.view.setUint32(this.blocks * 64 - 8, Math.floor(bits / 0x1_0000_0000))
    }
    for (let at = end - 1, m = n; at >= this.kept; at--) {
      const rest = Math.floor(m / 10)
      this.bytes[at] = 48 + (m - rest * 10)
      m = rest
    }
    this.state.set(this.middle)
    for (let i = 0; i < this.blocks; i++) compress(this.state, this.view, i * 64)
    return this.state
  }
}

/** How many zero bits a hash begins with, of its first 64. */
export function zeroBits(hash: Int32Array): number {
  return hash[0] !== 0 ? Math.clz32(hash[0]!) : 32 + Math.clz32(hash[1]!)
}
