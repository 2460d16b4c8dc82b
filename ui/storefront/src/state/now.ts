// The tick of the page: once a second, on the seconds of the server's clock, and only while something on the page counts.
import { getCurrentScope, onScopeDispose, ref, type Ref } from 'vue'
import { serverNow, setClock } from '@levee/shared'

const now = ref(serverNow())
let counting = 0
let timer: ReturnType<typeof setTimeout> | undefined

function tick(): void {
  clearTimeout(timer)
  now.value = serverNow()
  // A few milliseconds past the second, so that a countdown that rounds up has changed for sure.
  if (counting > 0 && !document.hidden) timer = setTimeout(tick, 1005 - (now.value % 1000))
}

/** The server's time in milliseconds, while the component lives. */
export function useNow(): Readonly<Ref<number>> {
  counting++
  if (counting === 1) tick()
  else now.value = serverNow()
  if (getCurrentScope())
    onScopeDispose(() => {
      counting--
    })
  return now
}

/** Sets the clock and keeps it right: a machine that slept, or whose clock was set, is asked about again. */
export function keepClock(): void {
  let setAt = 0
  let drift = Date.now() - performance.now()
  const look = (): void => {
    tick()
    if (document.hidden) return
    const is = Date.now() - performance.now()
    if (Date.now() - setAt < 600_000 && Math.abs(is - drift) < 500) return
    drift = is
    setAt = Date.now()
    void setClock().then(tick)
  }
  look()
  setInterval(look, 30_000)
  document.addEventListener('visibilitychange', look)
}
