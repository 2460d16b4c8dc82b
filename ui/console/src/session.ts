// Who is signed in, and whether the server answers. Every call goes through ask, so that a session that ended or a server that is
// away is met in one place, and no page loses what was typed into it.
import { reactive } from 'vue'
import { api, Problem, stepUpOf } from '@levee/shared'

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
  /** A dangerous act asks for a proof that it is still he, by one of these: the dialog is open. */
  proving: undefined as string[] | undefined,
  /** The server does not answer. */
  away: false,
})

/** The names of operations and abilities, all of which something takes. */
export type Needs = string | readonly string[]

/** Whether somebody has all of these: what menus, links and buttons go by. The server judges for itself. */
export const may = (needs: Needs, me: Me | undefined = session.user): boolean =>
  me !== undefined && (typeof needs === 'string' ? [needs] : needs).every((n) => me.permissions.includes(n))

/** The entries of the navigation, and what each takes. */
export const entries = [
  { name: 'overview', to: '/', needs: 'sales.hidden' },
  { name: 'sales', to: '/sales', needs: 'sales.hidden' },
  { name: 'products', to: '/products', needs: 'products.unsold' },
  { name: 'orders', to: '/orders', needs: ['listOrders', 'orders.of_others'] },
  { name: 'webhooks', to: '/webhooks', needs: 'listWebhooks' },
  { name: 'schedules', to: '/schedules', needs: 'listSchedules' },
  { name: 'queues', to: '/queues', needs: 'getJobQueue' },
  { name: 'events', to: '/events', needs: 'listEventListeners' },
  { name: 'users', to: '/users', needs: ['listUsers', 'accounts.of_others'] },
  { name: 'access', to: '/access', needs: ['listResources', 'listRoles'] },
  { name: 'limits', to: '/limits', needs: 'listLimits' },
  { name: 'keys', to: '/keys', needs: 'listSigningKeys' },
  { name: 'audit', to: '/audit', needs: 'listAudit' },
] as const

/** Whether the console has anything for somebody. */
export const operates = (me: Me | undefined): boolean => entries.some((e) => may(e.needs, me))

/** Asks who this is and what he may. A visitor is no problem. */
export async function whoAmI(): Promise<void> {
  try {
    const { data } = await api.GET('/v1/me')
    session.user = data as Me
  } catch (e) {
    if (!(e instanceof Problem && e.status === 401)) throw e
    session.user = undefined
  }
  session.known = true
}

/** What he may was changed meanwhile: menus and buttons follow. Of several refusals at once the first one asks. */
let asking = false
function mayLess(): void {
  if (asking || !session.user) return
  asking = true
  void api
    .GET('/v1/me')
    .then(({ data }) => void (session.user = data as Me))
    .catch(() => {}) // the next call meets it
    .finally(() => (asking = false))
}

/** A question to the person, asked once however many calls wait for its answer. */
function question(open: () => void) {
  let waiting: { promise: Promise<boolean>; settle: (well: boolean) => void } | undefined
  return {
    ask(): Promise<boolean> {
      if (!waiting) {
        let settle: (well: boolean) => void = () => {}
        const promise = new Promise<boolean>((resolve) => (settle = resolve))
        waiting = { promise, settle }
        open()
      }
      return waiting.promise
    },
    settle(well: boolean): void {
      waiting?.settle(well)
      waiting = undefined
    },
  }
}

const again = question(() => (session.ended = true))
/** Called when the one who was signed in is back (true), or gave up (false). */
export function settleAgain(back: boolean): void {
  session.ended = false
  again.settle(back)
}

let methods: string[] = []
const proof = question(() => (session.proving = methods))
/** Called when he has proved that it is he (true), or would not (false). */
export function settleProof(well: boolean): void {
  session.proving = undefined
  proof.settle(well)
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

/**
 * Runs a call. When the session has ended the call waits until its owner signed in again, and is made once more; so it does, once, where a dangerous act asks
 * for a proof that it is still he. Who gives none gets the refusal, and what he typed stays.
 */
export async function ask<T>(call: () => Promise<T>): Promise<T> {
  for (let proved = false; ; ) {
    try {
      const answer = await call()
      session.away = false
      return answer
    } catch (e) {
      if (!(e instanceof Problem)) throw e
      // 502 and 504 come from what stands before the server; 503 with a code comes from the server itself.
      if (e.status === 0 || e.status === 502 || e.status === 504) isAway()
      else session.away = false
      const by = stepUpOf(e)
      if (by) {
        methods = by
        if (proved || !(await proof.ask())) throw e
        proved = true
        continue
      }
      if (e.status === 401 && session.user && (await again.ask())) continue
      if (e.status === 403) mayLess()
      throw e
    }
  }
}
