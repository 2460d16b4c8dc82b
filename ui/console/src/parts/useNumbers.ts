// The live numbers of a sale: the last ten minutes, one point a second, and whether they come by themselves or are asked for.
import { computed, onScopeDispose, ref, shallowRef } from 'vue'
import { watch as live, type Problem } from '@levee/shared'
import { getHistory, getNumbers, numbersUrl, outcomes, type Numbers, type Outcome } from '../api'
import { session } from '../session'
import { asProblem } from './problem'

export const span = 600 // seconds

const seconds = (n: Numbers): number => Date.parse(n.at) / 1000

/** By how much a count grew each second; a node that started anew begins at zero again. */
function rates(points: Numbers[], count: (n: Numbers) => number): (number | null)[] {
  return points.map((p, i) => {
    const before = points[i - 1]
    if (!before) return null
    const dt = seconds(p) - seconds(before)
    return dt > 0 ? Math.max(0, count(p) - count(before)) / dt : null
  })
}

export function useNumbers(sale: string) {
  const points = shallowRef<Numbers[]>([])
  const problem = shallowRef<Problem>()
  const streams = ref(false)
  const loaded = ref(false)

  const now = computed(() => points.value.at(-1))
  const connection = computed<'live' | 'polling' | 'away'>(() => (streams.value ? 'live' : session.away || problem.value ? 'away' : 'polling'))

  /** Adds points; what is known already or too old is left out. */
  function add(more: Numbers[]): void {
    const newest = points.value.length ? seconds(points.value.at(-1)!) : 0
    const fresh = more.filter((p) => seconds(p) > newest)
    if (!fresh.length) return
    const all = [...points.value, ...fresh]
    const from = seconds(all.at(-1)!) - span - 1
    points.value = all.filter((p) => seconds(p) >= from)
  }
  async function read(): Promise<void> {
    try {
      const last = now.value
      // After a gap the server knows what was missed; otherwise the newest numbers will do.
      if (!last || Date.now() / 1000 - seconds(last) > 5) {
        const answer = await getHistory(sale)
        const { series, ...newest } = answer
        points.value = last ? points.value : []
        add([...(series ?? []), newest])
      } else add([await getNumbers(sale)])
      problem.value = undefined
    } catch (e) {
      problem.value = asProblem(e)
      throw e
    } finally {
      loaded.value = true
    }
  }
  const watching = live<Numbers>({ url: numbersUrl(sale), kinds: ['numbers'], on: (_kind, n) => (add([n]), (problem.value = undefined)), read, state: (is) => (streams.value = is) })
  onScopeDispose(() => watching.stop())

  const x = computed(() => points.value.map(seconds))
  const attempts = computed(() => rates(points.value, (n) => n.attempts))
  const settled = computed(() => rates(points.value, (n) => n.orders.settled))
  const byOutcome = computed(() => Object.fromEntries(outcomes.map((o) => [o, rates(points.value, (n) => n.outcomes[o] ?? 0)])) as Record<Outcome, (number | null)[]>)
  const of = (value: (n: Numbers) => number) => computed(() => points.value.map(value))
  return { points, now, x, attempts, settled, byOutcome, of, problem, connection, loaded }
}
