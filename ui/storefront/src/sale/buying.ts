// Buying, so that nothing is ever bought twice: the Idempotency-Key of a purchase is kept until there is a final answer, over lost
// replies, retries and reloads.
import { ref, shallowRef } from 'vue'
import { newKey, Problem, serverNow, watch, type Live } from '@levee/shared'
import * as house from '../api'
import { forget, keep, kept } from '../state/kept'

export interface Attempt {
  key: string
  quantity: number
  at: number
  /** Answered 202: the place in the line. */
  reservation?: string
}

/** How long the wish for a token is repeated: nothing is promised yet, and a visitor who went away must not buy by surprise. */
const tokenFor = 120_000
/** How long an unanswered purchase is asked for again by itself. Later its buyer decides anew: what he has is among his orders. */
const resumeFor = 600_000

/** What came of it: an order's number, or why there is none. */
export type Result = { order: string } | { refused: Problem }

const uncertain = (e: unknown): e is Problem =>
  e instanceof Problem && (e.status === 0 || e.status === 408 || e.status === 429 || e.status >= 500 || e.code === 'idempotency_running')

export function useBuying(sale: string, user: () => string | undefined) {
  const attempt = shallowRef<Attempt>()
  /** No answer has come through yet. */
  const troubled = ref(false)
  let follower: Live | undefined
  let over = false
  let wake: (() => void) | undefined

  const name = (): string => `buy.${user()}.${sale}`

  function note(a: Attempt | undefined): void {
    attempt.value = a
    if (a) keep(name(), a)
    else forget(name())
  }

  /** Repeats what got no answer. It throws what was refused, and the last error when its time is over. */
  async function patiently<T>(f: () => Promise<T>): Promise<T> {
    const began = serverNow()
    for (let tries = 0; ; tries++) {
      try {
        const t = await f()
        troubled.value = false
        return t
      } catch (e) {
        if (over || !uncertain(e) || serverNow() - began > tokenFor) {
          troubled.value = false
          throw e
        }
        troubled.value = tries > 0
        await pause((e.retryAfter ?? Math.min(8000, 400 * 2 ** tries)) * (0.75 + Math.random() / 2))
      }
    }
  }

  const pause = (ms: number): Promise<void> =>
    new Promise((go) => {
      const timer = setTimeout(go, ms)
      wake = () => {
        clearTimeout(timer)
        go()
      }
    })

  /** Waits until a place in the line became an order or a refusal. */
  function settled(id: string): Promise<Result> {
    return new Promise((done) => {
      const look = async (): Promise<number> => {
        try {
          const r = await house.reservation(id)
          if (r.place === 'queued') return r.poll_after_ms ?? 3000
          follower?.stop()
          done(r.place === 'ordered' && r.order ? { order: r.order } : { refused: new Problem(409, r.error ?? r.place, r.message ?? '') })
          return 3000
        } catch (e) {
          if (e instanceof Problem && (e.status === 404 || e.status === 403)) {
            follower?.stop()
            done({ refused: e })
            return 3000
          }
          throw e
        }
      }
      follower = watch({ url: house.events.reservation(id), kinds: ['reservation'], on: () => void look().catch(() => undefined), read: look, whenHidden: 5000 })
    })
  }

  /** Asks until there is a final answer. Undefined: the page went away and the attempt is kept, or the time for asking is over. */
  async function run(token: () => string | undefined): Promise<Result | undefined> {
    let tries = 0
    while (!over && attempt.value) {
      const a = attempt.value
      if (a.reservation) {
        const r = await settled(a.reservation)
        if (over) return undefined
        note(undefined)
        return r
      }
      try {
        const t = await house.buy(sale, a.quantity, a.key, token())
        if (over) return undefined
        troubled.value = false
        if (t.place === 'queued') {
          note({ ...a, reservation: t.reservation })
          continue
        }
        note(undefined)
        return t.order ? { order: t.order } : { refused: new Problem(409, t.error ?? t.place, t.message ?? '') }
      } catch (e) {
        if (over) return undefined
        if (!uncertain(e)) {
          troubled.value = false
          note(undefined)
          if (e instanceof Problem) return { refused: e }
          throw e
        }
        troubled.value = tries > 0
        if (serverNow() - a.at > resumeFor) {
          troubled.value = false
          note(undefined)
          return undefined
        }
        await pause((e.retryAfter ?? Math.min(8000, 400 * 2 ** tries)) * (0.75 + Math.random() / 2))
        tries++
      }
    }
    return undefined
  }

  return {
    attempt,
    troubled,
    patiently,
    /** Begins a purchase and resolves with its result. */
    buy(quantity: number, token: () => string | undefined): Promise<Result | undefined> {
      troubled.value = false
      note({ key: newKey(), quantity, at: serverNow() })
      return run(token)
    },
    /** Goes on with what a reload or a lost network interrupted. Undefined where there is nothing, or it is too old. */
    resume(token: () => string | undefined): Promise<Result | undefined> {
      const a = kept<Attempt>(name())
      if (!a) return Promise.resolve(undefined)
      if (!a.reservation && serverNow() - a.at > resumeFor) {
        note(undefined)
        return Promise.resolve(undefined)
      }
      attempt.value = a
      return run(token)
    },
    /** Asks again at once: the server is back. */
    hurry(): void {
      wake?.()
    },
    dispose(): void {
      over = true
      follower?.stop()
      wake?.()
    },
  }
}
