// The server's clock. A sale opens by it, never by the visitor's: his may be minutes wrong.

let offset = 0 // server minus this machine, in milliseconds
let error = Infinity // how far off that may be

/** Takes the time of an answer's Date header, which knows whole seconds only. Used until something better is known. */
export function heardTime(date: string): void {
  const at = Date.parse(date)
  if (Number.isNaN(at) || error < 1000) return
  offset = at + 500 - Date.now()
  error = 1000
}

/**
 * Asks the server for its time a few times and keeps the answer with the shortest way (as NTP does, RFC 5905): the time it names
 * was true somewhere within that way, so half of it is the most that the clock can be off.
 */
export async function setClock(samples = 3): Promise<void> {
  let best = Infinity
  for (let i = 0; i < samples; i++) {
    const sent = performance.now()
    const sentAt = Date.now()
    try {
      const response = await fetch('/v1/time', { cache: 'no-store' })
      const body = (await response.json()) as { unix_ms: number }
      const way = performance.now() - sent
      if (!Number.isFinite(body.unix_ms)) continue
      // The best of this round counts, also against a better one long ago: either machine's clock may have been set since.
      if (way / 2 < best) {
        best = error = way / 2
        offset = body.unix_ms - (sentAt + way / 2)
      }
    } catch {
      return // what is known stays; the page tells elsewhere that the server is away
    }
  }
}

/** Now, by the server's clock, in milliseconds since 1970. */
export const serverNow = (): number => Date.now() + offset
