// What a brake against robots asks for before a place is given: a little work of the device, or a picture to read.
import { onScopeDispose, ref, shallowRef } from 'vue'
import { Problem } from '@levee/shared'
import * as house from '../api'
import type { Done, Work } from './work.worker'
import { newWorker } from './worker'

/** The visitor went away from the challenge. */
export class Cancelled extends Error {}

export interface Proof {
  challenge: string
  answer: string
}

/** Below so many bits one worker is done before a second has started. */
const manyFrom = 18

export function useChallenge(sale: string) {
  const active = shallowRef<house.Challenge>()
  /** How likely it is that the work were done by now, 0 to 1: nobody can know how long luck takes. */
  const progress = ref(0)
  const slow = ref(false)
  const failed = ref(false)
  const broken = ref(false)
  let workers: Worker[] = []
  let settle: { done: (p: Proof) => void; fail: (e: unknown) => void } | undefined

  function stop(): void {
    for (const w of workers) w.terminate()
    workers = []
  }

  function work(c: house.Challenge): void {
    const bits = c.bits ?? 16
    const expected = 2 ** bits
    const began = performance.now()
    let tries = 0
    const many = bits < manyFrom ? 1 : Math.min(4, Math.max(1, (navigator.hardwareConcurrency || 2) - 1))
    for (let i = 0; i < many; i++) {
      const w = newWorker()
      w.onmessage = (e: MessageEvent<Done>) => {
        if ('answer' in e.data) {
          stop()
          progress.value = 1
          settle?.done({ challenge: c.challenge, answer: e.data.answer })
          return
        }
        tries += e.data.tries
        progress.value = 1 - Math.exp(-tries / expected)
        slow.value = performance.now() - began > 20_000
      }
      w.onerror = (e) => {
        e.preventDefault()
        stop()
        broken.value = true
        settle?.fail(new Problem(0, 'broken', 'the worker did not start'))
      }
      w.postMessage({ challenge: c.challenge, bits, start: i, step: many } satisfies Work)
      workers.push(w)
    }
  }

  function begin(c: house.Challenge): void {
    stop()
    active.value = c
    progress.value = 0
    slow.value = broken.value = false
    if (c.kind === 'work') work(c)
  }

  /** Shows the challenge and resolves with its answer. */
  async function solve(given: house.Challenge | undefined, again: boolean): Promise<Proof> {
    failed.value = again
    begin(given ?? (await house.challenge(sale)))
    try {
      return await new Promise<Proof>((done, fail) => {
        settle = { done, fail }
      })
    } finally {
      settle = undefined
    }
  }

  return {
    active,
    progress,
    slow,
    failed,
    broken,
    solve,
    /** The answer to a picture. */
    answer(text: string): void {
      if (active.value) settle?.done({ challenge: active.value.challenge, answer: text })
    },
    /** Another of the kind, or another kind. */
    async other(kind?: 'work' | 'picture'): Promise<void> {
      begin(await house.challenge(sale, kind ?? active.value?.kind))
    },
    /** The challenge is over, well or not. */
    close(): void {
      stop()
      active.value = undefined
    },
    cancel(): void {
      stop()
      active.value = undefined
      settle?.fail(new Cancelled())
    },
    dispose: onScopeDispose(() => {
      stop()
      settle?.fail(new Cancelled())
    }),
  }
}
export type ChallengeOfSale = ReturnType<typeof useChallenge>
