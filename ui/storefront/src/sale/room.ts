// Admission to a sale: the waiting room, its ticket, and the token that a turn gives.
import { computed, ref, shallowRef, watch as follow } from 'vue'
import { Problem, serverNow, watch, type Live } from '@levee/shared'
import * as house from '../api'
import { forget, keep, kept } from '../state/kept'
import type { ChallengeOfSale } from './challenge'

export interface Token {
  token: string
  expires_at: string
}

const codeOf = (e: unknown): string => (e instanceof Problem ? e.code : '')

/** braked tells whether a challenge stands before a first place: it is solved at once then, not after a refusal. */
export function useRoom(sale: string, user: () => string | undefined, challenge: ChallengeOfSale, braked: () => boolean) {
  const place = shallowRef<house.Place>()
  const token = shallowRef<Token>()
  const news = shallowRef<house.LineNews>()
  const live = ref(false)
  /** Of the news, when the place was last read: between two readings the position follows what was served since. */
  const servedThen = ref<number>()
  const busy = ref(false)

  const placeName = (): string => `place.${user()}.${sale}`
  const tokenName = (): string => `token.${user()}.${sale}`

  let follower: Live | undefined
  let again: ReturnType<typeof setTimeout> | undefined

  const position = ref<number>()
  /** The news is up to a second older than a reading, so what is computed from both may run ahead by a second's admissions; the next
   * reading must not look like a step back for that. More than that is one (people who missed their turn came back), and is shown. */
  function move(): void {
    const p = place.value
    if (p?.status !== 'waiting' || !p.position) {
      position.value = undefined
      return
    }
    const moved = news.value && servedThen.value !== undefined ? Math.max(0, news.value.served - servedThen.value) : 0
    const now = Math.max(1, p.position - moved)
    const ahead = 2 * (news.value?.per_second ?? 0) + 1
    if (position.value === undefined || now < position.value || now > position.value + ahead) position.value = now
  }
  const waiting = computed(() => news.value?.waiting ?? place.value?.waiting ?? 0)
  const estimate = computed(() => {
    const p = place.value
    if (!p?.estimate_seconds || !p.position || !position.value) return undefined
    const part = position.value / p.position
    return { low: p.estimate_seconds.low * part, high: p.estimate_seconds.high * part }
  })
  /** The sale is on, and yet nobody is let in. */
  const stalled = computed(() => place.value?.status === 'waiting' && news.value !== undefined && news.value.open && news.value.per_second === 0 && position.value !== undefined)

  function take(p: house.Place): house.Place {
    if (p.token && p.expires_at) {
      token.value = { token: p.token, expires_at: p.expires_at }
      keep(tokenName(), token.value)
    }
    if (p.ticket) keep(placeName(), { ticket: p.ticket })
    place.value = p
    servedThen.value = news.value?.served
    move()
    if (p.status === 'waiting') start()
    else stop()
    return p
  }

  function drop(): void {
    place.value = undefined
    move()
    stop()
  }

  /** Asks for a place or a token, solving what a brake asks for. It throws what the house refused with. */
  async function enter(): Promise<house.Place> {
    let proof: { challenge: string; answer: string } | undefined
    busy.value = true
    try {
      const ticket = kept<{ ticket: string }>(placeName())?.ticket
      if (braked() && !ticket && !place.value) proof = await challenge.solve(undefined, false)
      for (let tries = 0; ; tries++) {
        try {
          const p = await house.admit(sale, ticket, proof)
          challenge.close()
          return take(p)
        } catch (e) {
          const code = codeOf(e)
          if ((code !== 'challenge_required' && code !== 'challenge_failed') || tries > 8) throw e
          const data = (e as Problem).body.data as { challenge?: house.Challenge } | undefined
          proof = await challenge.solve(data?.challenge, code === 'challenge_failed')
        }
      }
    } finally {
      challenge.close()
      busy.value = false
    }
  }

  /** Reads the place. One that the server does not know any more is asked for again with its ticket. */
  async function read(): Promise<number> {
    const mine = user()
    try {
      const p = await house.place(sale)
      if (user() === mine) take(p)
      return p.poll_after_ms ?? 5000
    } catch (e) {
      if (codeOf(e) !== 'not_found' && !(e instanceof Problem && e.status === 410)) throw e
      const ticket = codeOf(e) === 'not_found' ? kept<{ ticket: string }>(placeName())?.ticket : undefined
      if (!ticket) {
        drop()
        return 30_000
      }
      try {
        return take(await house.admit(sale, ticket)).poll_after_ms ?? 5000
      } catch (e2) {
        if (!(e2 instanceof Problem) || e2.status === 0 || e2.status >= 500 || e2.status === 429) throw e2
        forget(placeName())
        drop()
        return 30_000
      }
    }
  }

  /** Reads soon, but not everybody at the same moment. */
  function readSoon(within: number): void {
    if (again !== undefined) return
    again = setTimeout(() => {
      again = undefined
      read().catch(() => readSoon(4000))
    }, Math.random() * within)
  }

  function heard(l: house.LineNews): void {
    const before = news.value
    news.value = l
    servedThen.value ??= l.served
    move()
    const p = place.value
    if (p?.status !== 'waiting') return
    const opened = l.open && before !== undefined && !before.open
    const turn = typeof p.number === 'number' && l.served >= p.number
    if (turn || (position.value === 1 && l.open)) readSoon(turn ? 300 : 2000)
    else if (opened || (l.open && typeof p.number !== 'number')) readSoon(Math.min(20_000, Math.max(800, l.waiting / 5))) // 5,000 a second, however many wait
  }

  function start(): void {
    follower ??= watch<house.LineNews>({
      url: house.events.room(sale),
      kinds: ['line'],
      on: (_, l) => heard(l),
      read,
      state: (is) => {
        live.value = is
      },
      whenHidden: 20_000,
    })
  }
  function stop(): void {
    follower?.stop()
    follower = undefined
    live.value = false
    news.value = undefined
    servedThen.value = undefined
    clearTimeout(again)
    again = undefined
  }

  // A place is good though nothing is heard for long: the live stream tells of the line, not of the place itself.
  const guard = setInterval(() => {
    if (place.value?.status === 'waiting' && live.value && !document.hidden) readSoon(5000)
  }, 30_000)

  follow(user, () => {
    drop()
    token.value = undefined
  })

  return {
    place,
    token,
    position,
    waiting,
    estimate,
    stalled,
    live,
    busy,
    enter,
    read,
    /** What this browser kept, and what the server knows of it. */
    async restore(room: boolean): Promise<void> {
      if (!user()) return
      const t = kept<Token>(tokenName())
      if (t && new Date(t.expires_at).getTime() > serverNow()) token.value = t
      else forget(tokenName())
      if (room && !token.value) await read()
    },
    spent(): void {
      token.value = undefined
      forget(tokenName())
      drop()
    },
    async leave(): Promise<void> {
      busy.value = true
      try {
        await house.leaveRoom(sale)
      } catch (e) {
        if (codeOf(e) !== 'not_found') throw e
      } finally {
        busy.value = false
      }
      forget(placeName())
      drop()
    },
    dispose(): void {
      stop()
      clearInterval(guard)
    },
  }
}
