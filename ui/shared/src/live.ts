// What happens now, told by the server: server-sent events, and asking every few seconds where they do not get through.

export interface Live {
  /** Ends it. */
  stop(): void
}

export interface Watch<T> {
  /** The stream (text/event-stream). */
  url: string
  /** Kinds of events to hear. */
  kinds: string[]
  /** Called for each event. */
  on(kind: string, data: T): void
  /** Reads the state by an ordinary request: at the start, after a gap, and as the way of polling. Resolves to the milliseconds after
   * which to ask again while polling, or to undefined for the usual 3 s. */
  read(): Promise<number | undefined | void>
  /** Tells whether events come through. */
  state?(live: boolean): void
  /** Milliseconds after which a hidden page reads again and again; without it a hidden page asks nothing. For what its owner waits
   * for elsewhere: browsers slow such timers down to a minute by themselves. */
  whenHidden?: number
}

const pollEvery = 3000
const silence = 45_000 // no event and no heartbeat for so long: the way is dead though it looks open

// Over HTTP/1.1 a browser holds six connections to one host, over all its windows, and a stream keeps one for ever: six streams and
// no request gets through any more. So the streams of this house share a few slots (the lock is the browser's own, over windows), and
// who gets none polls. HTTP/2 has no such limit; a browser without locks is trusted to have one window.
const slots = 4

const manyWays = (): boolean => {
  const [page] = performance.getEntriesByType('navigation') as PerformanceNavigationTiming[]
  return !navigator.locks || /^h[23]/.test(page?.nextHopProtocol ?? '')
}

/** Takes a slot and resolves to what gives it back, or to undefined when all are taken. */
async function slot(): Promise<(() => void) | undefined> {
  if (manyWays()) return () => undefined
  for (let i = 0; i < slots; i++) {
    const release = await new Promise<(() => void) | undefined>((got) => {
      navigator.locks
        .request(`levee-stream-${i}`, { ifAvailable: true }, (lock) => (lock ? new Promise<void>((free) => got(free)) : got(undefined)))
        .catch(() => got(undefined)) // the page is going away
    })
    if (release) return release
  }
  return undefined
}

/**
 * Watches something. While the stream lives nobody asks; when it breaks the page polls and tries the stream again, ever more slowly,
 * up to every 30 s. A hidden page neither polls nor holds a stream; it reads once when it is seen again.
 */
export function watch<T>(w: Watch<T>): Live {
  let source: EventSource | undefined
  let poll: ReturnType<typeof setTimeout> | undefined
  let again: ReturnType<typeof setTimeout> | undefined
  let guard: ReturnType<typeof setTimeout> | undefined
  let wait = 1000
  let live = false
  let over = false
  let opening = false
  let release: (() => void) | undefined

  const tell = (is: boolean): void => {
    if (live !== is) w.state?.(is)
    live = is
  }
  const alive = (): void => {
    clearTimeout(guard)
    guard = setTimeout(broken, silence)
  }
  const read = async (): Promise<number> => {
    try {
      return (await w.read()) ?? pollEvery
    } catch (e) {
      const after = (e as { retryAfter?: number }).retryAfter
      return Math.max(after ?? 0, pollEvery) * (0.75 + Math.random() / 2) // spread: a server that comes back must not meet everybody at once
    }
  }
  const polling = async (): Promise<void> => {
    clearTimeout(poll)
    if (over || live || document.hidden) return
    const after = await read()
    if (!over && !live && !document.hidden) {
      clearTimeout(poll) // two chains never run side by side
      poll = setTimeout(polling, after)
    }
  }
  const dozing = async (): Promise<void> => {
    clearTimeout(poll)
    if (over || !document.hidden || w.whenHidden === undefined) return
    await read()
    if (!over && document.hidden) {
      clearTimeout(poll)
      poll = setTimeout(dozing, w.whenHidden)
    }
  }
  const close = (): void => {
    source?.close()
    source = undefined
    release?.()
    release = undefined
    clearTimeout(guard)
    clearTimeout(again)
    clearTimeout(poll)
  }
  function broken(): void {
    close()
    tell(false)
    if (over || document.hidden) return
    void polling()
    again = setTimeout(open, wait * (0.75 + Math.random() / 2))
    wait = Math.min(wait * 2, 30_000)
  }
  async function open(): Promise<void> {
    if (over || document.hidden || source || opening) return
    opening = true
    release = await slot()
    opening = false
    if (!release) {
      again = setTimeout(open, 5000 * (0.75 + Math.random() / 2))
      return
    }
    if (over || document.hidden) {
      close()
      return
    }
    source = new EventSource(w.url)
    source.onopen = () => {
      wait = 1000
      clearTimeout(poll)
      tell(true)
      alive()
      void read() // what happened before the stream was open
    }
    source.onerror = broken
    for (const kind of w.kinds)
      source.addEventListener(kind, (e) => {
        alive()
        if (!over) w.on(kind, JSON.parse((e as MessageEvent<string>).data) as T)
      })
    source.addEventListener('reset', () => void read()) // events were missed
    source.addEventListener('ping', alive)
  }
  const seen = (): void => {
    if (document.hidden) {
      close()
      tell(false)
      if (w.whenHidden !== undefined) poll = setTimeout(dozing, w.whenHidden)
    } else {
      clearTimeout(poll)
      void open()
      void polling()
    }
  }
  document.addEventListener('visibilitychange', seen)
  void open()
  if (document.hidden) void dozing()
  else void polling()
  return {
    stop() {
      over = true
      close()
      document.removeEventListener('visibilitychange', seen)
    },
  }
}
