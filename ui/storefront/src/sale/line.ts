// The place of a buyer in a sale's line: entries of a draw, and the waiting list after sold out.
import { computed, ref, shallowRef, watch as follow } from 'vue'
import { newKey, Problem, watch, type Live } from '@levee/shared'
import * as house from '../api'
import { noticesLive, onLine } from '../state/notices'

export function useLine(sale: string, user: () => string | undefined) {
  const entry = shallowRef<house.Entry>()
  const draw = shallowRef<house.Draw>()
  const numbers = shallowRef<house.LineNumbers>()
  const live = ref(false)
  const busy = ref(false)
  let follower: Live | undefined
  let timer: ReturnType<typeof setTimeout> | undefined
  let over = false
  let soon: ReturnType<typeof setTimeout> | undefined
  let key: string | undefined
  let isDraw = false
  /** Whose absence from the line is known: his own joining elsewhere comes with the news. */
  let absent: string | undefined

  const hopeful = computed(() => ['entered', 'waiting', 'offered'].includes(entry.value?.status ?? ''))
  const waiting = computed(() => numbers.value?.waiting ?? entry.value?.waiting ?? 0)
  const entries = computed(() => (draw.value?.state === 'drawn' || draw.value?.state === 'closed' ? draw.value.entries : (numbers.value?.entries ?? draw.value?.entries ?? 0)))

  let reading: Promise<void> | undefined
  /** Reads one's place; several who ask at once get one answer. */
  function read(): Promise<void> {
    reading ??= readNow().finally(() => (reading = undefined))
    return reading
  }
  async function readNow(): Promise<void> {
    const mine = user()
    if (!mine) return
    try {
      const e = await house.lineEntry(sale)
      if (user() === mine && !over) entry.value = e
    } catch (e) {
      if (!(e instanceof Problem && e.status === 404)) throw e
      absent = mine
      if (user() === mine) entry.value = undefined
    }
  }
  async function readDraw(): Promise<void> {
    if (isDraw) draw.value = await house.draw(sale)
  }

  // Its own news come live with the notices; a reading now and then catches what was missed, and how the line moves.
  function plan(): void {
    clearTimeout(timer)
    if (over || !hopeful.value) return
    const after = noticesLive.value ? 15_000 : (entry.value?.poll_after_ms ?? 5000)
    timer = setTimeout(() => {
      if (document.hidden) plan()
      else read().catch(() => undefined).finally(plan)
    }, after * (0.85 + Math.random() * 0.3))
  }
  follow([entry, noticesLive], plan)

  const stopLine = onLine((e) => {
    if (e.sale === sale) entry.value = e
  })

  /** Follows how long the line is. */
  function start(): void {
    if (over) return
    follower ??= watch<house.LineNumbers>({
      url: house.events.line(sale),
      kinds: ['numbers'],
      on: (_, n) => {
        // Also when these are the first numbers: the draw may have been held between the page's reading and its first news.
        const drawnNow = isDraw && n.drawn && draw.value?.state !== 'drawn' && numbers.value?.drawn !== true
        const moved = numbers.value !== undefined && n.waiting < numbers.value.waiting
        numbers.value = n
        // Somebody ahead may have gone: a long line does not ask all at once.
        if (moved && entry.value?.status === 'waiting' && soon === undefined)
          soon = setTimeout(
            () => {
              soon = undefined
              if (!over) read().catch(() => undefined)
            },
            1000 + Math.random() * Math.max(3000, n.waiting / 2),
          )
        if (drawnNow) setTimeout(() => void Promise.all([readDraw(), hopeful.value ? read() : undefined]).catch(() => undefined), Math.random() * 2000)
      },
      read: async () => {
        await Promise.all([readDraw(), hopeful.value || (isDraw && absent !== user()) ? read() : undefined])
        return 5000
      },
      state: (is) => {
        live.value = is
      },
    })
  }
  function stop(): void {
    follower?.stop()
    follower = undefined
    live.value = false
  }

  follow(user, () => {
    entry.value = undefined
  })

  return {
    entry,
    draw,
    entries,
    waiting,
    hopeful,
    live,
    busy,
    read,
    readDraw,
    /** Whether nothing is known of the visitor's place. */
    unknown: () => absent !== user() && entry.value === undefined,
    start,
    stop,
    isDraw(is: boolean): void {
      isDraw = is
    },
    async join(quantity: number): Promise<void> {
      busy.value = true
      key ??= newKey()
      try {
        entry.value = await house.joinLine(sale, quantity, key)
        key = undefined
      } catch (e) {
        if (e instanceof Problem && e.status >= 400 && e.status < 500) key = undefined
        throw e
      } finally {
        busy.value = false
      }
    },
    async leave(): Promise<void> {
      busy.value = true
      try {
        await house.leaveLine(sale)
        entry.value = undefined
      } finally {
        busy.value = false
      }
    },
    dispose(): void {
      over = true
      stop()
      stopLine()
      clearTimeout(timer)
    },
  }
}
