import createClient, { type Middleware } from 'openapi-fetch'
import type { paths } from './schema'
import { heardTime } from './clock'

/** One refused field of a request: where it is, what is allowed there, what was given. */
export interface Refused {
  field: string
  allowed: string
  given: string
}

/** What the server said instead of an answer (RFC 9457), or that it could not be reached (status 0). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    /** A word for programs: sold_out, limit_reached, unreachable … */
    readonly code: string,
    message: string,
    readonly fields: Refused[] = [],
    readonly body: Record<string, unknown> = {},
    /** Milliseconds after which to ask again, where the server said so. */
    readonly retryAfter?: number,
    /** The number under which the server's log has this request. */
    readonly requestId?: string,
  ) {
    super(message)
    this.name = 'Problem'
  }
}

const seconds = (text: string | null): number | undefined => {
  const n = Number(text)
  return text !== null && Number.isFinite(n) ? n * 1000 : undefined
}

/** Reads a refused answer. */
export async function problemOf(response: Response): Promise<Problem> {
  let body: Record<string, unknown> = {}
  try {
    body = (await response.json()) as Record<string, unknown>
  } catch {
    // no JSON: a proxy answered
  }
  return new Problem(
    response.status,
    String(body.error ?? body.code ?? `http_${response.status}`),
    String(body.detail ?? body.title ?? response.statusText),
    Array.isArray(body.errors) ? (body.errors as Refused[]) : [],
    body,
    seconds(response.headers.get('Retry-After')),
    response.headers.get('X-Request-Id') ?? undefined,
  )
}

/** How long a request may take before the page says that the server does not answer. */
const patience = 20_000

const whole: Middleware = {
  async onRequest({ request }) {
    // The page's language, which a person may have chosen against the browser's: errors are told in it.
    if (document.documentElement.lang) request.headers.set('Accept-Language', document.documentElement.lang)
    return new Request(request, { signal: AbortSignal.any([request.signal, AbortSignal.timeout(patience)]) })
  },
  async onResponse({ response }) {
    const date = response.headers.get('Date')
    if (date) heardTime(date)
    if (!response.ok) throw await problemOf(response)
  },
  onError({ error }) {
    if (error instanceof Problem) return error
    return new Problem(0, 'unreachable', error instanceof Error ? error.message : String(error))
  },
}

/** The typed client of the API. A refused request throws a Problem, so `data` is always there. */
export const api = createClient<paths, 'application/json'>({ baseUrl: '/', credentials: 'same-origin' })
api.use(whole)

/** A key that makes a repeated request harmless: the server gives its first answer again. */
export const newKey = (): string => crypto.randomUUID()
