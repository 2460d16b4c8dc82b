import { onScopeDispose } from 'vue'
import { session } from '../session'

/** Asks again every so many milliseconds while the page is seen, and at once when it is seen again. What takes longer is not asked twice. */
export function useEvery(ms: number, ask: () => Promise<unknown> | void): void {
  let under = false
  const go = async (): Promise<void> => {
    if (document.hidden || session.away || session.ended || under) return
    under = true
    try {
      await ask()
    } finally {
      under = false
    }
  }
  const shown = (): void => void (document.hidden || go())
  const timer = setInterval(() => void go(), ms)
  document.addEventListener('visibilitychange', shown)
  onScopeDispose(() => {
    clearInterval(timer)
    document.removeEventListener('visibilitychange', shown)
  })
}
