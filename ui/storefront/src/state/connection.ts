// The way to the server: whether it answers, and what waits for it to come back.
import { ref } from 'vue'
import { api, Problem } from '@levee/shared'

/** ok; away: the server does not answer; offline: this machine has no network. */
export const connection = ref<'ok' | 'away' | 'offline'>(navigator.onLine ? 'ok' : 'offline')

/** How many parts of the page are only polled at this moment: their live updates do not come through. */
export const polled = ref(0)

const waiting = new Set<() => void>()

/** Calls f once, when the server answers again. Returns what takes the wish back. */
export function whenBack(f: () => void): () => void {
  waiting.add(f)
  return () => void waiting.delete(f)
}

let probe: ReturnType<typeof setTimeout> | undefined
let wait = 2000

let worry: ReturnType<typeof setTimeout> | undefined

function lost(): void {
  // One lost reply is not an absence: it is told when the next one is lost too, or none comes for a while.
  worry ??= setTimeout(() => {
    if (connection.value !== 'offline') connection.value = 'away'
  }, 1500)
  if (probe === undefined) {
    // Spread: a server that comes back must not meet everybody at once.
    probe = setTimeout(ask, wait * (0.7 + Math.random() * 0.6))
    wait = Math.min(wait * 1.6, 15_000)
  }
}

function found(): void {
  clearTimeout(probe)
  clearTimeout(worry)
  probe = worry = undefined
  wait = 2000
  if (connection.value === 'ok') return
  connection.value = 'ok'
  const all = [...waiting]
  waiting.clear()
  for (const f of all) f()
}

async function ask(): Promise<void> {
  probe = undefined
  try {
    await api.GET('/v1/time')
  } catch {
    // told by the hook below
  }
}

api.use({
  onResponse({ response }) {
    // A proxy that speaks for a server that is gone answers with one of these and no word of ours.
    const away = response.status >= 502 && !response.headers.get('Content-Type')?.includes('problem+json')
    if (away) lost()
    else found()
  },
  onError({ error }) {
    if (!(error instanceof Problem) || error.status === 0) lost()
  },
})

addEventListener('offline', () => {
  connection.value = 'offline'
})
addEventListener('online', () => {
  connection.value = 'away'
  wait = 300
  lost()
})
