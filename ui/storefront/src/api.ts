// Every call to the house, one function each. Amounts are in minor units, times are RFC 3339 in UTC. A refused call throws a Problem.
import { api, makePasskey, rememberReturn, usePasskey, type components } from '@levee/shared'

type Schemas = components['schemas']

export type Product = Schemas['CatalogProductView']
export type Sku = Schemas['CatalogSkuView']
export type Picture = Schemas['CatalogPictureView']
export type Order = Schemas['OrderView']
export type OrderEntry = Schemas['OrderEntryView']
export type Payment = Schemas['PaymentView']
export type User = Schemas['IdentityUserView']
export type Session = Schemas['IdentitySessionView']
export type Provider = Schemas['FederationProviderView']
export type Link = Schemas['FederationLinkView']
export type Factors = Schemas['GetFactorsResponse']
export type Passkey = Schemas['FactorPasskeyView']
export type Enrolment = Schemas['FactorEnrolmentView']
export type Ticket = Schemas['SaleTicketView']

export type Sale = Schemas['SaleView']
export type Phase = Sale['phase']
export type Place = Schemas['AdmissionPlaceView']
export type Challenge = Schemas['AdmissionChallengeView']
export type Entry = Schemas['LineEntryView']
export type Draw = Schemas['LineDrawView']
export type Notice = Schemas['NotifyNoticeView']

/** What is needed beside a code, and when there can be another one (seconds). */
export interface Asked {
  request: string
  expires_at: string
  retry_after: number
}

// What the streams carry is not in the schema.

/** How the line of a waiting room moves. */
export interface LineNews {
  served: number
  waiting: number
  per_second: number
  open: boolean
}

/** How long the line of a sale is: its draw's entries, its waiting list. */
export interface LineNumbers {
  drawn: boolean
  entries: number
  waiting: number
  offered: number
}

export const events = {
  sale: (sale: string): string => `/v1/sales/${encodeURIComponent(sale)}/events`,
  room: (sale: string): string => `/v1/sales/${encodeURIComponent(sale)}/admissions/events`,
  line: (sale: string): string => `/v1/sales/${encodeURIComponent(sale)}/line/events`,
  reservation: (reservation: string): string => `/v1/reservations/${encodeURIComponent(reservation)}/events`,
  notices: '/v1/notices/events',
}

/** Asks for admission, with the ticket of an earlier place and the proof that a brake asked for. */
export async function admit(sale: string, ticket?: string, proof?: { challenge: string; answer: string }): Promise<Place> {
  const body = ticket || proof ? { ...(ticket && { ticket }), ...(proof && { proof }) } : undefined
  const { data } = await api.POST('/v1/sales/{sale}/admissions', { params: { path: { sale } }, body })
  return data!
}

/** One's place in the waiting room. */
export async function place(sale: string): Promise<Place> {
  const { data } = await api.GET('/v1/sales/{sale}/admissions/mine', { params: { path: { sale } } })
  return data!
}

export async function leaveRoom(sale: string): Promise<void> {
  await api.DELETE('/v1/sales/{sale}/admissions/mine', { params: { path: { sale } } })
}

export async function challenge(sale: string, kind?: 'work' | 'picture'): Promise<Challenge> {
  const { data } = await api.POST('/v1/sales/{sale}/challenges', { params: { path: { sale } }, body: kind ? { kind } : undefined })
  return data!
}

export async function joinLine(sale: string, quantity: number, key: string): Promise<Entry> {
  const { data } = await api.POST('/v1/sales/{sale}/line', { params: { path: { sale }, header: { 'Idempotency-Key': key } }, body: { quantity } })
  return data!
}

export async function lineEntry(sale: string): Promise<Entry> {
  const { data } = await api.GET('/v1/sales/{sale}/line/mine', { params: { path: { sale } } })
  return data!
}

export async function leaveLine(sale: string): Promise<void> {
  await api.DELETE('/v1/sales/{sale}/line/mine', { params: { path: { sale } } })
}

export async function draw(sale: string): Promise<Draw> {
  const { data } = await api.GET('/v1/sales/{sale}/draw', { params: { path: { sale } } })
  return data!
}

export async function notices(after?: string, limit = 20): Promise<{ items: Notice[]; unread: number; next?: string }> {
  const { data } = await api.GET('/v1/notices', { params: { query: { after, limit } } })
  return { ...data!, items: data!.items ?? [] }
}

export async function readNotices(upTo: string): Promise<void> {
  await api.POST('/v1/notices/reads', { body: { up_to: upTo } })
}

// ---- Sales and products ----

export async function sale(id: string): Promise<Sale> {
  const { data } = await api.GET('/v1/sales/{sale}', { params: { path: { sale: id } } })
  return data!
}

/** Sales that are not over, newest first. */
export async function liveSales(): Promise<Sale[]> {
  const { data } = await api.GET('/v1/sales', { params: { query: { live: true, limit: 50 } } })
  return data!.items ?? []
}

/** Takes units. The same key gives the first answer again. */
export async function buy(sale: string, quantity: number, key: string, token?: string): Promise<Ticket> {
  const header = { 'Idempotency-Key': key, ...(token && { 'Levee-Admission': token }) }
  const { data } = await api.POST('/v1/sales/{sale}/purchases', { params: { path: { sale }, header }, body: { quantity } })
  return data!
}

export async function reservation(id: string): Promise<Ticket> {
  const { data } = await api.GET('/v1/reservations/{reservation}', { params: { path: { reservation: id } } })
  return data!
}

export async function products(after?: string, limit = 12): Promise<{ items: Product[]; next?: string }> {
  const { data } = await api.GET('/v1/products', { params: { query: { after, limit } } })
  return { items: data!.items ?? [], next: data!.next }
}

export async function product(id: string): Promise<Product> {
  const { data } = await api.GET('/v1/products/{id}', { params: { path: { id } } })
  return data!
}

// ---- Orders ----

export async function order(id: string): Promise<Order> {
  const { data } = await api.GET('/v1/orders/{id}', { params: { path: { id } } })
  return data!
}

/** One's own orders; an operator would be shown everybody's if the buyer were left out. */
export async function orders(buyer: string, more: { sale?: string; after?: string; limit?: number } = {}): Promise<{ items: Order[]; next?: string }> {
  const { data } = await api.GET('/v1/orders', { params: { query: { buyer, ...more } } })
  return { items: data!.items ?? [], next: data!.next }
}

export async function timeline(order: string): Promise<OrderEntry[]> {
  const { data } = await api.GET('/v1/orders/{id}/timeline', { params: { path: { id: order } } })
  return data!.items ?? []
}

export async function orderSku(sku: string, quantity: number, key: string): Promise<Order> {
  const { data } = await api.POST('/v1/orders', { params: { header: { 'Idempotency-Key': key } }, body: { lines: [{ sku, quantity }] } })
  return data!
}

export async function cancel(order: string, key: string): Promise<Order> {
  const { data } = await api.POST('/v1/orders/{id}/cancellation', { params: { path: { id: order }, header: { 'Idempotency-Key': key } } })
  return data!
}

export async function startPayment(order: string, key: string): Promise<Payment> {
  const init = { params: { path: { id: order }, header: { 'Idempotency-Key': key } }, body: { provider: 'test' } }
  const { data } = await api.POST('/v1/orders/{id}/payments', init)
  return data!
}

export async function payments(order: string): Promise<Payment[]> {
  const { data } = await api.GET('/v1/orders/{id}/payments', { params: { path: { id: order } } })
  return data!.items ?? []
}

// ---- The account ----

/** What an account is called: by name, or by phone where it looks like one. */
const calledBy = (name: string): { name: string } | { phone: string } => (/^\+?[\d\s()-]{6,}$/.test(name) ? { phone: name.replace(/[\s()-]/g, '') } : { name })

export async function me(): Promise<User> {
  const { data } = await api.GET('/v1/me')
  return data as unknown as User // the schema leaves the account's own fields out
}

export async function signIn(name: string, password: string): Promise<User> {
  const { data } = await api.POST('/v1/sessions', { body: { ...calledBy(name.trim()), password, cookie: true } })
  return data!.user
}

export async function signUp(name: string, password: string): Promise<void> {
  await api.POST('/v1/users', { body: { ...calledBy(name.trim()), password } })
}

/** Whether this house sends codes by SMS. */
export async function sendsCodes(): Promise<boolean> {
  const { data } = await api.GET('/v1/phone-codes')
  return data!.enabled
}

/** What a code by SMS is for: signing in, or up; or putting the number on one's account. */
export type CodePurpose = Schemas['AskPhoneCodeRequest']['purpose']

/** Has a code sent: good once, for five minutes, for its purpose, together with what this answers. */
export async function askCode(phone: string, purpose: CodePurpose): Promise<Asked> {
  const { data } = await api.POST('/v1/phone-codes', { body: { phone, purpose } })
  return data!
}

/** Puts a number on one's account, with a code that was sent there; returns it in full. */
export async function bindPhone(phone: string, code: string, request: string): Promise<string> {
  const { data } = await api.PUT('/v1/me/phone', { body: { phone, code, request } })
  return data!.phone
}

/** Signs in, or up, with a code. */
export async function signInByPhone(phone: string, code: string, request: string): Promise<User> {
  const { data } = await api.POST('/v1/sessions/phone', { body: { phone, code, request, cookie: true } })
  return data!.user
}

/** Goes on with a sign-in that waits for a second factor, by one answer. */
export async function signInSecond(answer: Omit<Schemas['SignInSecondRequest'], 'cookie'>): Promise<User> {
  const { data } = await api.POST('/v1/sessions/second-factor', { body: { ...answer, cookie: true } })
  return data!.user
}

/** The secret of an application, for a sign-in that waits until one is set up. Its first code goes on with the sign-in. */
export async function enrolAtSignIn(challenge: string): Promise<Enrolment> {
  const { data } = await api.POST('/v1/sessions/second-factor/enrolment', { body: { challenge } })
  return data!
}

/** Sets a new password with the one-time token of an administrator's link. */
export async function resetPassword(token: string, password: string): Promise<void> {
  await api.POST('/v1/password-resets', { body: { token, password } })
}

// ---- Third parties ----

/** What a third party put into the address to which it sent the browser back. */
export interface Answer {
  provider: string
  state: string
  code?: string
  iss?: string
  error?: string
}

export async function providers(): Promise<Provider[]> {
  const { data } = await api.GET('/v1/providers')
  return data!.items ?? []
}

/** Where to send the browser, to sign in or to link. It comes back to /sign-in/{provider}/callback. */
export async function beginThrough(provider: string, returnTo: string, link: boolean): Promise<string> {
  const { data } = await api.POST(link ? '/v1/me/link-attempts' : '/v1/sign-in-attempts', { body: { provider, return_to: returnTo } })
  if (!link) rememberReturn(returnTo)
  return data!.address
}

/** Ends a sign-in; returns where it leads. */
export async function signInThrough(answer: Answer): Promise<{ user: User; returnTo: string }> {
  const { data } = await api.POST('/v1/sessions/federated', { body: answer })
  return { user: data!.user, returnTo: data!.return_to }
}

/** Ends a linking; returns where it leads. */
export async function link(answer: Answer): Promise<{ link: Link; returnTo: string }> {
  const { data } = await api.POST('/v1/me/links', { body: answer })
  return { link: data!.link, returnTo: data!.return_to }
}

export async function links(): Promise<Link[]> {
  const { data } = await api.GET('/v1/me/links')
  return data!.items ?? []
}

export async function unlink(provider: string): Promise<void> {
  await api.DELETE('/v1/me/links/{provider}', { params: { path: { provider } } })
}

export async function signOut(): Promise<void> {
  await api.DELETE('/v1/sessions/{id}', { params: { path: { id: 'current' } } })
}

export async function sessions(): Promise<Session[]> {
  const { data } = await api.GET('/v1/sessions')
  return data!.items ?? []
}

export async function endSession(id: string): Promise<void> {
  await api.DELETE('/v1/sessions/{id}', { params: { path: { id } } })
}

export async function endOtherSessions(): Promise<number> {
  const { data } = await api.DELETE('/v1/sessions')
  return data!.sessions_ended
}

export async function changePassword(current: string, password: string): Promise<void> {
  await api.PUT('/v1/me/password', { body: { current, password } })
}

// ---- Second factors ----

export async function factors(): Promise<Factors> {
  const { data } = await api.GET('/v1/me/factors')
  return data!
}

/** A secret for an application; it counts once a code of it was confirmed. */
export async function beginTOTP(): Promise<Enrolment> {
  const { data } = await api.POST('/v1/me/totp')
  return data!
}

/** Returns recovery codes, where it is the first factor. They are shown this once. */
export async function confirmTOTP(challenge: string, code: string): Promise<string[]> {
  const { data } = await api.POST('/v1/me/totp/confirmation', { body: { challenge, code } })
  return data!.recovery_codes
}

export async function removeTOTP(): Promise<void> {
  await api.DELETE('/v1/me/totp')
}

/** Ten new ones; those of before are good no more. */
export async function renewRecoveryCodes(): Promise<string[]> {
  const { data } = await api.POST('/v1/me/recovery-codes')
  return data!.recovery_codes
}

/** Has the browser make a passkey and the house keep it. Returns recovery codes as confirmTOTP does. */
export async function addPasskey(name: string): Promise<string[]> {
  const asked = (await api.POST('/v1/me/passkeys/options')).data!
  const credential = await makePasskey(asked.public_key)
  const { data } = await api.POST('/v1/me/passkeys', { body: { challenge: asked.challenge, name, credential } })
  return data!.recovery_codes
}

export async function removePasskey(id: string): Promise<void> {
  await api.DELETE('/v1/me/passkeys/{id}', { params: { path: { id } } })
}

/** Proves again that it is oneself: the session may do what is dangerous for some minutes. */
export async function stepUp(answer: Schemas['StepUpRequest']): Promise<void> {
  await api.POST('/v1/me/step-up', { body: answer })
}

export async function stepUpByPasskey(): Promise<void> {
  const asked = (await api.POST('/v1/me/step-up/options')).data!
  await stepUp({ challenge: asked.challenge, assertion: await usePasskey(asked.public_key) })
}
