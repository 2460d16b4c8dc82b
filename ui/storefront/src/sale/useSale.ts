// The sale page as a state machine: what is true now, and the one step that follows from it.
import { computed, onScopeDispose, ref, shallowRef, watch as follow } from 'vue'
import { Problem, serverNow, watch } from '@levee/shared'
import * as house from '../api'
import { connection, polled, whenBack } from '../state/connection'
import { useNow } from '../state/now'
import { noticesLive, onNotice } from '../state/notices'
import { userId } from '../state/session'
import { useBuying, type Result } from './buying'
import { Cancelled, useChallenge } from './challenge'
import { useLine } from './line'
import { useRoom } from './room'

export type Step =
  | 'loading'
  | 'soon'
  | 'open'
  | 'challenge'
  | 'room'
  | 'missed'
  | 'admitted'
  | 'buying'
  | 'queued'
  | 'won'
  | 'held'
  | 'sold-out'
  | 'limit'
  | 'paused'
  | 'ended'
  | 'line'
  | 'offered'
  | 'draw-soon'
  | 'draw-entry'
  | 'draw-entered'
  | 'draw-closed'
  | 'draw-lost'

const problemOf = (e: unknown): Problem => (e instanceof Problem ? e : new Problem(0, 'unknown', e instanceof Error ? e.message : String(e)))
const gone = ['cancelled', 'refunded', 'refunding']
const units = (o: house.Order): number => (o.lines ?? []).reduce((n, l) => n + l.quantity, 0)

export function useSale(id: string) {
  const now = useNow()
  const user = (): string | undefined => userId.value
  const sale = shallowRef<house.Sale>()
  const product = shallowRef<house.Product>()
  const problem = shallowRef<unknown>()
  const live = ref(false)
  const orders = shallowRef<house.Order[]>([])
  const refusal = shallowRef<Problem>()
  const busy = ref(false)
  /** A purchase is under way, from the wish for a token on. */
  const taking = ref(false)
  /** A purchase ended without an answer: what he has is looked up before anything is bought again. */
  let unsure = false
  /** He holds units and wants more. */
  const again = ref(false)
  const resuming = ref(false)
  const quantity = ref(1)
  let over = false

  const challenge = useChallenge(id)
  const room = useRoom(id, user, challenge, () => (policy.value?.brake ?? 'none') !== 'none')
  const buying = useBuying(id, user)
  const line = useLine(id, user)

  // ---- What is true ----

  const isDraw = computed(() => sale.value?.mode === 'draw')
  const policy = computed(() => sale.value?.admission)
  const hasRoom = computed(() => policy.value?.room === true && !isDraw.value)
  const tokenNeeded = computed(() => sale.value?.token_needed ?? true)
  const startsAt = computed(() => new Date(sale.value?.starts_at ?? 0).getTime())
  const endsAt = computed(() => new Date(sale.value?.ends_at ?? 0).getTime())
  const drawAt = computed(() => new Date(sale.value?.draw_at ?? sale.value?.ends_at ?? 0).getTime())

  /** The phase by the last word of the server and its clock since. */
  const phase = computed<house.Phase | 'closed'>(() => {
    const s = sale.value
    if (!s) return 'draft'
    if (now.value >= endsAt.value && s.phase !== 'draft') return 'ended'
    let p: house.Phase | 'closed' = s.phase
    if (p === 'upcoming' && now.value >= startsAt.value) p = isDraw.value ? 'entry' : 'open'
    if (isDraw.value && (p === 'entry' || p === 'open') && now.value >= drawAt.value) p = 'closed'
    if (p === 'drawn' && line.draw.value && line.draw.value.state !== 'drawn') p = 'closed'
    return p
  })

  const kept = computed(() => orders.value.filter((o) => !gone.includes(o.state)))
  const held = computed(() => kept.value.reduce((n, o) => n + units(o), 0))
  const mayHave = computed(() => Math.max(0, (sale.value?.per_buyer ?? 1) - held.value))
  const unpaid = computed(() => kept.value.find((o) => o.state === 'created'))
  const paid = computed(() => kept.value.find((o) => o.state !== 'created'))
  const offer = computed(() => (line.entry.value?.status === 'offered' ? line.entry.value.offer : undefined))
  const hasToken = computed(() => room.token.value !== undefined && new Date(room.token.value.expires_at).getTime() > now.value)

  const step = computed<Step>(() => {
    if (!sale.value) return 'loading'
    if (challenge.active.value) return 'challenge'
    if (buying.attempt.value?.reservation) return 'queued'
    if (buying.attempt.value || (taking.value && (!hasRoom.value || hasToken.value))) return 'buying'
    if (offer.value) return 'offered'
    if (unpaid.value && !again.value) return isDraw.value || unpaid.value.id === line.entry.value?.offer?.order ? 'offered' : 'won'
    const entry = line.entry.value?.status
    if (isDraw.value) {
      switch (phase.value) {
        case 'upcoming':
          return 'draw-soon'
        case 'entry':
          return entry === 'entered' ? 'draw-entered' : 'draw-entry'
        case 'closed':
          return 'draw-closed'
        case 'paused':
          return entry === 'entered' ? 'draw-entered' : 'paused'
      }
      if (paid.value) return 'held'
      if (phase.value === 'ended') return entry && entry !== 'left' ? 'draw-lost' : 'ended'
      if (entry === 'entered') return 'draw-closed'
      return entry === 'waiting' ? 'line' : 'draw-lost'
    }
    if (phase.value === 'ended') return paid.value ? 'held' : 'ended'
    if (refusal.value?.code === 'limit_reached') return 'limit'
    if (paid.value && !again.value) return 'held'
    if (entry === 'waiting') return 'line'
    const place = room.place.value?.status
    switch (phase.value) {
      case 'upcoming':
        return place === 'waiting' ? 'room' : 'soon'
      case 'paused':
        return place === 'waiting' ? 'room' : 'paused'
      case 'sold_out':
        return 'sold-out'
    }
    if (hasRoom.value) {
      if (hasToken.value) return 'admitted'
      if (place === 'waiting') return 'room'
      if (place === 'missed') return 'missed'
    }
    return 'open'
  })

  // ---- Reading ----

  async function read(): Promise<number> {
    try {
      sale.value = await house.sale(id)
      problem.value = undefined
      quantity.value = Math.max(1, Math.min(quantity.value, sale.value.per_buyer))
      line.isDraw(isDraw.value)
      return startsAt.value - serverNow() > 120_000 ? 10_000 : 3000
    } catch (e) {
      if (!sale.value || (e instanceof Problem && e.status === 404)) problem.value = e
      if (e instanceof Problem && e.status === 404) return 60_000
      throw e
    }
  }

  const follower = watch<{ phase: house.Phase }>({
    url: house.events.sale(id),
    kinds: ['phase'],
    on: (_, d) => {
      if (!sale.value) return
      const was = sale.value.phase
      sale.value = { ...sale.value, phase: d.phase }
      // The terms may have changed too; a crowd reads them again, but not all in one moment.
      if (was !== 'upcoming') setTimeout(() => !over && void read().catch(() => undefined), Math.random() * 3000)
    },
    read,
    state: (is) => {
      live.value = is
    },
  })

  async function readOrders(): Promise<void> {
    const u = user()
    if (!u) return
    const list = (await house.orders(u, { sale: id, limit: 50 })).items
    if (user() === u) orders.value = list
  }

  let loaded: string | undefined
  /** What belongs to the visitor: his orders, his place, what was interrupted. */
  async function readMine(): Promise<void> {
    const u = user()
    const s = sale.value
    if (!u || !s || loaded === u) return
    loaded = u
    try {
      await Promise.all([
        readOrders(),
        room.restore(hasRoom.value && phase.value !== 'ended'),
        isDraw.value || s.phase === 'sold_out' || s.phase === 'ended' ? line.read() : undefined,
      ])
    } catch {
      loaded = undefined
      whenBack(() => void readMine())
    }
    if (over || user() !== u) return
    resuming.value = true
    const result = await buying.resume(() => room.token.value?.token).catch(() => undefined)
    resuming.value = false
    if (result) await came(result)
  }
  follow(
    [userId, () => sale.value !== undefined],
    ([u], [was]) => {
      if (u !== was) {
        orders.value = []
        refusal.value = undefined
        again.value = false
        loaded = undefined
      }
      void readMine()
    },
    { immediate: true },
  )

  // The product is shown beside the sale; the sale does not need it.
  follow(
    () => sale.value?.product,
    (p) => {
      if (p)
        house
          .product(p)
          .then((d) => (product.value = d))
          .catch(() => undefined)
    },
  )

  // The line is followed where it is looked at.
  follow(
    () => isDraw.value || ['line', 'sold-out'].includes(step.value),
    (is) => (is && sale.value?.phase !== 'ended' ? line.start() : line.stop()),
    { immediate: true },
  )
  follow(
    () => sale.value?.phase,
    (p, was) => {
      if (p === 'sold_out' && was !== undefined && user() && line.unknown()) void line.read().catch(() => undefined)
      if (isDraw.value && was !== undefined) void Promise.all([line.readDraw(), line.hopeful.value ? line.read() : undefined]).catch(() => undefined)
      if (isDraw.value && was === undefined) void line.readDraw().catch(() => undefined)
    },
  )
  // A page that is not told asks at the moment when something must have happened.
  follow([() => phase.value === 'closed', () => phase.value === 'open'], ([closed, open], [wasClosed]) => {
    if ((closed && !wasClosed) || (open && sale.value?.phase === 'upcoming' && !live.value)) setTimeout(() => !over && void read().catch(() => undefined), 500 + Math.random() * 1500)
  })

  // An order that waits for its payment may be paid in another tab, or run out.
  let timer: ReturnType<typeof setTimeout> | undefined
  function plan(): void {
    clearTimeout(timer)
    if (over || !unpaid.value) return
    const late = unpaid.value.pay_by !== undefined && serverNow() >= new Date(unpaid.value.pay_by).getTime()
    timer = setTimeout(
      () => {
        if (document.hidden) plan()
        else readOrders().catch(() => undefined).finally(plan)
      },
      late ? 3000 : noticesLive.value ? 20_000 : 5000,
    )
  }
  follow([orders, noticesLive], plan)
  follow(
    () => line.entry.value?.status,
    (is, was) => {
      if (is && (is === 'offered' || was === 'offered')) void readOrders().catch(() => undefined)
    },
  )
  const stopNotices = onNotice((n) => {
    if (n.subject.order && (n.subject.sale === id || orders.value.some((o) => o.id === n.subject.order))) void readOrders().catch(() => undefined)
  })
  const seen = (): void => {
    if (!document.hidden && unpaid.value) void readOrders().catch(() => undefined)
  }
  document.addEventListener('visibilitychange', seen)
  addEventListener('online', buying.hurry)
  const stopHurry = follow(connection, (is) => is === 'ok' && buying.hurry())

  const onlyPolled = computed(() => sale.value !== undefined && phase.value !== 'ended' && !live.value)
  let counted = false
  const count = (is: boolean): void => {
    if (is === counted) return
    counted = is
    polled.value += is ? 1 : -1
  }
  // A stream needs a moment to open: a page that has just come is not one that is only polled.
  let patience: ReturnType<typeof setTimeout> | undefined
  follow(
    onlyPolled,
    (is) => {
      clearTimeout(patience)
      if (is) patience = setTimeout(() => count(true), 4000)
      else count(false)
    },
    { immediate: true },
  )

  onScopeDispose(() => {
    over = true
    follower.stop()
    room.dispose()
    buying.dispose()
    line.dispose()
    stopNotices()
    clearTimeout(timer)
    clearTimeout(patience)
    count(false)
    document.removeEventListener('visibilitychange', seen)
    removeEventListener('online', buying.hurry)
    stopHurry()
  })

  // ---- Acts ----

  /** Does something that may be refused, one at a time. */
  async function act(f: () => Promise<void>): Promise<void> {
    if (busy.value) return
    busy.value = true
    refusal.value = undefined
    try {
      await f()
    } catch (e) {
      if (!(e instanceof Cancelled)) await refused(problemOf(e))
    } finally {
      busy.value = taking.value = false
    }
  }

  /** Takes a refusal for what it says about the sale. */
  async function refused(p: Problem): Promise<void> {
    refusal.value = p
    const set = (phase: house.Phase): void => {
      if (sale.value) sale.value = { ...sale.value, phase }
    }
    switch (p.code) {
      case 'sold_out':
        set('sold_out')
        again.value = false
        break
      case 'paused':
        set('paused')
        break
      case 'ended':
        set('ended')
        break
      case 'limit_reached':
        await readOrders().catch(() => undefined)
        break
      case 'units_free':
        set('open')
        break
      case 'draw_only':
      case 'not_open':
      case 'entries_closed':
        await read().catch(() => undefined)
        break
      case 'admission_missing':
      case 'admission_invalid':
      case 'admission_expired':
        room.spent()
        break
    }
  }

  async function came(r: Result): Promise<void> {
    if ('order' in r) {
      again.value = false
      room.spent()
      try {
        orders.value = [await house.order(r.order), ...orders.value.filter((o) => o.id !== r.order)]
      } catch {
        whenBack(() => void readOrders())
      }
    } else await refused(r.refused)
  }

  /** The token for a purchase; undefined where none is needed; null where a waiting room stands before it. */
  async function tokenFor(): Promise<string | null | undefined> {
    if (!tokenNeeded.value) return undefined
    if (hasToken.value) return room.token.value!.token
    const p = await buying.patiently(room.enter)
    return p.token ?? null
  }

  return {
    sale,
    product,
    problem,
    live,
    orders,
    held,
    mayHave,
    unpaid,
    paid,
    offer,
    refusal,
    busy,
    again,
    resuming,
    quantity,
    challenge,
    room,
    buying,
    line,
    isDraw,
    policy,
    hasRoom,
    hasToken,
    phase,
    startsAt,
    endsAt,
    drawAt,
    step,
    read,
    readOrders,
    enter: () => act(async () => void (await room.enter())),
    leaveRoom: () => act(room.leave),
    buy: () =>
      act(async () => {
        taking.value = true
        const before = orders.value.map((o) => o.id)
        if (unsure) {
          await readOrders()
          unsure = false
          if (orders.value.some((o) => !before.includes(o.id))) return
        }
        // A token may have run out on the way, and the page's clock may be a breath ahead of the server's: both are tried again.
        for (let tries = 0; ; tries++) {
          const token = await tokenFor()
          if (token === null) return
          const r = await buying.buy(Math.min(quantity.value, Math.max(1, mayHave.value)), () => token)
          if (!r) {
            unsure = true
            throw new Problem(0, 'unreachable', 'no answer')
          }
          if ('refused' in r && tries < 4) {
            const code = r.refused.code
            if (code.startsWith('admission_') && !hasRoom.value) {
              room.spent()
              continue
            }
            if (code === 'not_open' && now.value >= startsAt.value) {
              await new Promise((go) => setTimeout(go, 400))
              continue
            }
          }
          return came(r)
        }
      }),
    join: () => act(() => line.join(Math.min(quantity.value, Math.max(1, mayHave.value)))),
    leaveLine: () => act(line.leave),
    wantMore(): void {
      again.value = true
      refusal.value = undefined
      quantity.value = 1
    },
  }
}
export type SaleState = ReturnType<typeof useSale>
