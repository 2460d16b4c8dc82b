// Who is signed in. The session itself is a cookie that no script can read; what is kept here is only that there is one, so that a
// first visit need not ask.
import { computed, ref } from 'vue'
import { api, Problem } from '@levee/shared'
import * as house from '../api'
import { forget, keep, kept, namesOf, onKept } from './kept'

const hint = 'account'
/** What belongs to an account and goes with it. */
const owned = ['place.', 'token.', 'buy.']

/** The account; null for a visitor; undefined while it is not known yet. */
export const user = ref<house.User | null | undefined>(kept(hint) === undefined ? null : undefined)
export const userId = computed(() => user.value?.id)

/** Set when a session ended by itself, so that the page can say so once. */
export const lostSession = ref(false)

let asking: Promise<void> | undefined

/** Finds out who is signed in, once. Asks nothing when nobody was, unless sure is wanted: another page of this house may have
 * signed him in. */
export function knowUser(sure = false): Promise<void> {
  if (user.value === null && sure && asking === undefined) asking = ask()
  if (user.value === undefined && asking === undefined) asking = ask()
  return asking ?? Promise.resolve()
}

async function ask(): Promise<void> {
  try {
    become(await house.me())
  } catch (e) {
    if (e instanceof Problem && e.status === 401) become(null)
    else asking = undefined // not known: asked again with the next page
  }
}

function become(u: house.User | null): void {
  user.value = u
  if (u) {
    keep(hint, u.id)
    lostSession.value = false
  } else forget(hint)
}

export async function signIn(name: string, password: string): Promise<void> {
  entered(await house.signIn(name, password))
}

export async function signInByPhone(phone: string, code: string, request: string): Promise<void> {
  entered(await house.signInByPhone(phone, code, request))
}

export async function bindPhone(phone: string, code: string, request: string): Promise<void> {
  const number = await house.bindPhone(phone, code, request)
  if (user.value) user.value = { ...user.value, phone: number }
}

export async function signInSecond(answer: Parameters<typeof house.signInSecond>[0]): Promise<void> {
  entered(await house.signInSecond(answer))
}

/** Ends a sign-in through a third party, or a linking; returns where it leads. */
export async function comeBack(answer: house.Answer): Promise<{ returnTo: string; linked?: house.Link }> {
  if (answer.state.startsWith('link')) {
    const { link, returnTo } = await house.link(answer)
    return { returnTo, linked: link }
  }
  const { user, returnTo } = await house.signInThrough(answer)
  entered(user)
  return { returnTo }
}

/** A session has begun: what others left here goes. */
function entered(u: house.User): void {
  for (const start of owned)
    for (const n of namesOf(start)) if (!n.startsWith(`${start}${u.id}.`)) forget(n)
  asking = undefined
  become(u)
}

export async function signOut(): Promise<void> {
  try {
    await house.signOut()
  } catch (e) {
    if (!(e instanceof Problem && e.status === 401)) throw e
  }
  for (const start of [...owned, 'pay.']) for (const n of namesOf(start)) forget(n)
  become(null)
}

/** Who is known to be signed in but is told 401 has been signed out elsewhere, or his session is over. */
api.use({
  onResponse({ request, response }) {
    if (response.status !== 401 || !user.value) return
    if (request.method === 'POST' && /^\/v1\/sessions(\/|$)/.test(new URL(request.url).pathname)) return
    if (response.headers.get('WWW-Authenticate')?.includes('insufficient_user_authentication')) return // the session is good: a fresh proof is asked for
    become(null)
    lostSession.value = true
  },
})

// Another tab signed in or out.
onKept(hint, () => {
  const id = kept<string>(hint)
  if (id === user.value?.id) return
  if (id === undefined) user.value = null
  else {
    user.value = undefined
    asking = ask()
  }
})
