// Who is signed in, and whether the server answers. Every call goes through ask, so that a session that ended or a server that is
// away is met in one place, and no page loses what was typed into it.
import { reactive } from 'vue'
import { Problem } from '@levee/shared'

export interface Me {
  id: string
  name?: string
  phone?: string
  roles: string[]
  /** Names of the operations and abilities that he has beside what is for anybody. */
  permissions: string[]
}

export const session = reactive({
  /** Undefined for a visitor. */
  user: undefined as Me | undefined,
  /** Whether the server was asked who this is. */
  known: false,
  /** The session ended while a page was in use: the dialog is open. */
  ended: false,
  /** The server does not answer. */
  away: false,
})

/** Whether somebody may use an operation, or has an ability: what menus and buttons go by. The server judges for itself. */
export const may = (permission: string, me: Me | undefined = session.user): boolean => me !== undefined && me.permissions.includes(permission)

/** The entries of the navigation, and what each takes. */
export const entries = [
  { name: 'sales', needs: 'sales.hidden' },
  { name: 'products', needs: 'products.unsold' },
  { name: 'orders', needs: 'orders.of_others' },
  { name: 'webhooks', needs: 'listWebhooks' },
  { name: 'schedules', needs: 'listSchedules' },
  { name: 'queues', needs: 'getJobQueue' },
  { name: 'events', needs: 'listEventListeners' },
  { name: 'users', needs: 'listUsers' },
  { name: 'access', needs: 'listResources' },
  { name: 'audit', needs: 'listAudit' },
] as const

/** Whether the console has anything for somebody. */
export const operates = (me: Me | undefined): boolean => entries.some((e) => may(e.needs, me))

let waiting: { promise: Promise<boolean>; settle: (again: boolean) => void } | undefined

/** Called when the one who was signed in is back (true), or gave up (false). */
export function settleAgain(back: boolean): void {
  session.ended = false
  waiting?.settle(back)
  waiting = undefined
}

function again(): Promise<boolean> {
  if (!waiting) {
    let settle: (back: boolean) => void = () => {}
    const promise = new Promise<boolean>((resolve) => (settle = resolve))
    waiting = { promise, settle }
    session.ended = true
  }
  return waiting.promise
}

let probe: ReturnType<typeof setTimeout> | undefined

/** Asks for the time until the server is back. */
function probing(): void {
  clearTimeout(probe)
  probe = setTimeout(async () => {
    try {
      const response = await fetch('/v1/time', { cache: 'no-store', signal: AbortSignal.timeout(5000) })
      if (response.ok) {
        session.away = false
        return
      }
    } catch {
      // still away
    }
    probing()
  }, 2500)
}

export function isAway(): void {
  if (session.away) return
  session.away = true
  probing()
}

/** Runs a call. When the session has ended the call waits until its owner signed in again, and is made once more. */
export async function ask<T>(call: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      const answer = await call()
      session.away = false
      return answer
    } catch (e) {
      if (!(e instanceof Problem)) throw e
      // 502 and 504 come from what stands before the server; 503 with a code comes from the server itself.
      if (e.status === 0 || e.status === 502 || e.status === 504) isAway()
      else session.away = false
      if (e.status === 401 && session.user && (await again())) continue
      throw e
    }
  }
}
