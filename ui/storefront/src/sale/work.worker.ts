// Finds a number such that SHA-256(challenge + "." + number) begins with so many zero bits, away from the page's own thread.
import { Hasher, zeroBits } from './sha256'

export interface Work {
  challenge: string
  bits: number
  /** Several workers share the numbers: this one takes every step-th from start on. */
  start: number
  step: number
}
export type Done = { answer: string } | { tries: number }

const told = 16_384 // tries between two words about the progress

onmessage = (e: MessageEvent<Work>): void => {
  const { challenge, bits, start, step } = e.data
  const hasher = new Hasher(challenge + '.')
  let n = start
  for (;;) {
    for (let i = 0; i < told; i++, n += step) {
      if (zeroBits(hasher.hash(n)) >= bits) {
        postMessage({ answer: String(n) } satisfies Done)
        return
      }
    }
    postMessage({ tries: told } satisfies Done)
  }
}
