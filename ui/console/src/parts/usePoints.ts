// Numbers that are asked for every few seconds: the last ten minutes of them. They are kept while the console is open, so that a plot is
// still there when one comes back to its page.
import { computed, shallowRef, type ComputedRef, type ShallowRef } from 'vue'

export const span = 600 // seconds

export interface Point {
  /** Seconds since 1970. */
  at: number
  values: Record<string, number | null>
}
const stores = new Map<string, ShallowRef<Point[]>>()

export function usePoints(name: string) {
  let points = stores.get(name)
  if (!points) stores.set(name, (points = shallowRef<Point[]>([])))
  const kept = points
  function add(at: number, values: Point['values']): void {
    if (at <= (kept.value.at(-1)?.at ?? 0)) return
    kept.value = [...kept.value.filter((p) => p.at >= at - span - 1), { at, values }]
  }
  const x: ComputedRef<number[]> = computed(() => kept.value.map((p) => p.at))
  const of = (key: string): (number | null)[] => kept.value.map((p) => p.values[key] ?? null)
  return { points: kept, add, x, of }
}

export interface Totals {
  node: string
  at: string
  enqueued: number
  done: number
  retried: number
  dead: number
}
const last = new Map<string, { seen: number; totals: Totals; rates?: Record<'enqueued' | 'done' | 'failed', number> }>()

/**
 * How much grew each second, from what a node has counted since it started. Each answer is of one node: nodes that answered within the last minute
 * are added up. A node that started anew begins at zero again.
 */
export function ratesOf(now: Totals): { enqueued: number | null; done: number | null; failed: number | null; nodes: number } {
  const before = last.get(now.node)
  const seen = Date.now()
  const dt = before ? (Date.parse(now.at) - Date.parse(before.totals.at)) / 1000 : 0
  const grew = (key: 'enqueued' | 'done' | 'retried' | 'dead'): number => Math.max(0, now[key] - (before?.totals[key] ?? 0)) / dt
  if (!before || dt > 0) last.set(now.node, { seen, totals: now, ...(dt > 0 && { rates: { enqueued: grew('enqueued'), done: grew('done'), failed: grew('retried') + grew('dead') } }) })
  for (const [node, l] of last) if (seen - l.seen > 60_000) last.delete(node)
  const known = [...last.values()].flatMap((l) => (l.rates ? [l.rates] : []))
  const sum = (key: 'enqueued' | 'done' | 'failed'): number | null => (known.length ? known.reduce((s, r) => s + r[key], 0) : null)
  return { enqueued: sum('enqueued'), done: sum('done'), failed: sum('failed'), nodes: last.size }
}
