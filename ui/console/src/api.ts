// Every call to the server, under the names that pages use. Types come from the server's own description of itself.
import { api, makePasskey, problemOf, Problem, rememberReturn, usePasskey, type components, type paths } from '@levee/shared'
import { toRaw } from 'vue'
import { ask, session, type Me } from './session'

type S = components['schemas']

export type Money = S['Money']
export type Product = S['CatalogProductView']
export type Sku = S['CatalogSkuView']
export type Picture = S['CatalogPictureView']
export type Movement = S['CatalogMovementView']
export type ImportResult = S['CatalogImportView']
export type ImportError = S['CatalogImportErrorView']
export type Order = S['OrderView']
export type OrderStep = S['OrderEntryView']
export type Payment = S['PaymentView']
export type AuditEntry = S['TrailEntryView']
export type Account = S['SaleAccountView']
export type SaleAct = S['SaleActView']
export type Readiness = S['GetReadinessResponse']
export type ActName = S['ActOnSaleRequest']['act']

/** The entity tags of what was read, by the body that was read. */
const tags = new WeakMap<object, string>()

/** Runs a typed call through ask and takes the body out. */
const of = <T>(call: () => Promise<{ data?: T; response: Response }>): Promise<NonNullable<T>> =>
  ask(async () => {
    const { data, response } = await call()
    const tag = response.headers.get('ETag')
    if (tag && typeof data === 'object' && data) tags.set(data, tag)
    return data as NonNullable<T>
  })
/** The header that lets a change through only while the thing is as it was seen. */
const ifAsSeen = (seen: object) => ({ 'If-Match': tags.get(toRaw(seen)) ?? '""' })
const done = (call: () => Promise<unknown>): Promise<void> => ask(async () => void (await call()))

const query = (values: Record<string, string | number | undefined>): string => {
  const q = new URLSearchParams()
  for (const [k, v] of Object.entries(values)) if (v !== undefined && v !== '') q.set(k, String(v))
  const text = q.toString()
  return text && `?${text}`
}

// ---- who ----

/** Begins a session of the browser and asks what its owner may. It does not go through ask: a wrong password is not a session that ended. */
export async function signIn(name: string, password: string): Promise<Me> {
  const phone = /^\+?[\d\s-]{6,}$/.test(name.trim())
  const body = phone ? { phone: name.trim(), password, cookie: true } : { name: name.trim(), password, cookie: true }
  await api.POST('/v1/sessions', { body })
  const { data } = await api.GET('/v1/me')
  return data as Me
}

/** Goes on with a sign-in that waits for a second factor. Like signIn it does not go through ask. */
export async function signInSecond(answer: Omit<S['SignInSecondRequest'], 'cookie'>): Promise<Me> {
  await api.POST('/v1/sessions/second-factor', { body: { ...answer, cookie: true } })
  const { data } = await api.GET('/v1/me')
  return data as Me
}
/** The secret of an application, for a sign-in that waits until one is set up. Its first code goes on with the sign-in. */
export const enrolAtSignIn = (challenge: string) => of(() => api.POST('/v1/sessions/second-factor/enrolment', { body: { challenge } }))

/** Third parties through which one can sign in. */
export async function listProviders(): Promise<S['FederationProviderView'][]> {
  const { data } = await api.GET('/v1/providers')
  return data!.items ?? []
}

/** Where to send the browser. It comes back to the shop's pages, which send it on to the console. */
export async function beginSignIn(provider: string, to: string): Promise<string> {
  const { data } = await api.POST('/v1/sign-in-attempts', { body: { provider, return_to: `/console${to}` } })
  rememberReturn(`/console${to}`)
  return data!.address
}

export async function signOut(): Promise<void> {
  try {
    await api.DELETE('/v1/sessions/{id}', { params: { path: { id: 'current' } } })
  } catch (e) {
    if (!(e instanceof Problem && e.status === 401)) throw e // it had ended already
  }
  session.user = undefined
}

export const setupNeeded = (): Promise<boolean> => of(() => api.GET('/v1/setup')).then((b) => b.needed)
export const setUp = (body: S['SetUpRequest']): Promise<unknown> => of(() => api.POST('/v1/setup', { body }))

// ---- products ----

export const listProducts = (q: { prefix?: string; state?: string; after?: string; limit?: number }) =>
  of(() => api.GET('/v1/products', { params: { query: q as NonNullable<paths['/v1/products']['get']['parameters']['query']> } }))
export const getProduct = (id: string) => of(() => api.GET('/v1/products/{id}', { params: { path: { id } }, cache: 'no-store' }))
export const createProduct = (body: S['CatalogProductRequest'], key: string) =>
  of(() => api.POST('/v1/products', { body, params: { header: { 'Idempotency-Key': key } } }))
export const updateProduct = (id: string, body: S['CatalogProductPatch']) => of(() => api.PATCH('/v1/products/{id}', { params: { path: { id } }, body }))
export const getSku = (id: string) => of(() => api.GET('/v1/skus/{id}', { params: { path: { id } } }))
export const createSku = (id: string, body: S['CatalogSkuRequest'], key: string) =>
  of(() => api.POST('/v1/products/{id}/skus', { params: { path: { id }, header: { 'Idempotency-Key': key } }, body }))
export const updateSku = (id: string, body: S['CatalogSkuPatch']) => of(() => api.PATCH('/v1/skus/{id}', { params: { path: { id } }, body }))
export const adjustStock = (id: string, body: S['CatalogMovementRequest'], key: string) =>
  of(() => api.POST('/v1/skus/{id}/movements', { params: { path: { id }, header: { 'Idempotency-Key': key } }, body }))
export const listMovements = (id: string, after?: string) =>
  of(() => api.GET('/v1/skus/{id}/movements', { params: { path: { id }, query: { after, limit: 20 } } }))
export const deletePicture = (id: string) => done(() => api.DELETE('/v1/pictures/{id}', { params: { path: { id } } }))
export const pictureUrl = (id: string): string => `/v1/pictures/${encodeURIComponent(id)}`
export const exportUrl = (format: 'csv' | 'jsonl'): string => `/v1/products/export${query({ format, bom: format === 'csv' ? 'true' : undefined })}`

/** Sends a file as the body, and tells how much of it is on its way (0 to 1). */
function upload<T>(path: string, file: Blob, type: string, progress: (part: number) => void): Promise<T> {
  return ask(
    () =>
      new Promise<T>((resolve, reject) => {
        const x = new XMLHttpRequest()
        x.open('POST', path)
        x.setRequestHeader('Content-Type', type)
        x.timeout = 180_000
        x.upload.onprogress = (e) => e.lengthComputable && progress(e.loaded / e.total)
        x.upload.onload = () => progress(1)
        x.onerror = x.ontimeout = () => reject(new Problem(0, 'unreachable', ''))
        x.onload = () => {
          if (x.status < 300) return resolve(JSON.parse(x.responseText) as T)
          const headers = new Headers()
          for (const h of ['Retry-After', 'X-Request-Id']) {
            const v = x.getResponseHeader(h)
            if (v) headers.set(h, v)
          }
          void problemOf(new Response(x.responseText, { status: x.status, headers })).then(reject)
        }
        x.send(file)
      }),
  )
}

export const addPicture = (product: string, file: Blob, alt: string, progress: (part: number) => void) =>
  upload<Picture>(`/v1/products/${encodeURIComponent(product)}/pictures${query({ alt })}`, file, file.type, progress)
export const importProducts = (file: Blob, format: 'csv' | 'jsonl', o: { mode: string; stock: string }, progress: (part: number) => void) =>
  upload<ImportResult>(`/v1/products/import${query(o)}`, file, format === 'csv' ? 'text/csv' : 'application/x-ndjson', progress)

// ---- sales ----

export type Sale = S['SaleView']
export type Terms = Required<Omit<S['SaleTermsBody'], 'draw_at' | 'version' | 'admission'>> & Pick<S['SaleTermsBody'], 'draw_at' | 'version'> & { admission: Required<S['SalePolicyBody']> }
export type SaleCheck = S['CheckSaleResponse']
export type Numbers = Omit<S['GetLiveResponse'], 'series'>
export type Draw = S['LineDrawView']

export const listSales = (q: { after?: string; limit?: number; live?: boolean }) =>
  of(() => api.GET('/v1/sales', { params: { query: q } }))
export const getSale = (sale: string) => of(() => api.GET('/v1/sales/{sale}', { params: { path: { sale } } }))
export const createSale = (body: Terms, key: string) => of(() => api.POST('/v1/sales', { params: { header: { 'Idempotency-Key': key } }, body }))
export const changeSale = (sale: string, body: Terms) => of(() => api.PUT('/v1/sales/{sale}', { params: { path: { sale } }, body }))
export const checkSale = (body: S['PlanCheckBody']) => of(() => api.POST('/v1/sale-checks', { body }))
export const duplicateSale = (sale: string, body: S['DuplicateSaleRequest'], key: string) =>
  of(() => api.POST('/v1/sales/{sale}/duplicates', { params: { path: { sale }, header: { 'Idempotency-Key': key } }, body }))
export const actOnSale = (sale: string, body: S['ActOnSaleRequest'], key: string) =>
  of(() => api.POST('/v1/sales/{sale}/acts', { params: { path: { sale }, header: { 'Idempotency-Key': key } }, body }))
export const listActs = (sale: string, after?: string) => of(() => api.GET('/v1/sales/{sale}/acts', { params: { path: { sale }, query: { after, limit: 50 } } }))
export const getAccount = (sale: string) => of(() => api.GET('/v1/sales/{sale}/account', { params: { path: { sale } } }))
export const reconcile = (sale: string) => of(() => api.POST('/v1/sales/{sale}/reconciliations', { params: { path: { sale } } }))
export const getReadiness = (sale: string) => of(() => api.GET('/v1/sales/{sale}/readiness', { params: { path: { sale } } }))
export const rehearse = (sale: string, body: S['RehearseSaleRequest'], key: string) =>
  of(() => api.POST('/v1/sales/{sale}/rehearsals', { params: { path: { sale }, header: { 'Idempotency-Key': key } }, body }))
export const getDraw = (sale: string) => of(() => api.GET('/v1/sales/{sale}/draw', { params: { path: { sale } } }))

export const outcomes = ['won', 'repeated', 'sold_out', 'limit_reached', 'not_open', 'paused', 'admission', 'unavailable', 'other'] as const
export type Outcome = (typeof outcomes)[number]

export const getNumbers = (sale: string) => of(() => api.GET('/v1/sales/{sale}/live', { params: { path: { sale } } }))
export const getHistory = (sale: string) => of(() => api.GET('/v1/sales/{sale}/live', { params: { path: { sale }, query: { history: true } } }))
export const numbersUrl = (sale: string): string => `/v1/sales/${encodeURIComponent(sale)}/live/events`

// ---- orders ----

export const listOrders = (q: { state?: Order['state']; buyer?: string; sale?: string; created_at__gte?: string; created_at__lt?: string; after?: string; limit?: number }) =>
  of(() => api.GET('/v1/orders', { params: { query: q } }))
export const getOrder = (id: string) => of(() => api.GET('/v1/orders/{id}', { params: { path: { id } } }))
export const getTimeline = (id: string) => of(() => api.GET('/v1/orders/{id}/timeline', { params: { path: { id } } }))
export const listPayments = (id: string) => of(() => api.GET('/v1/orders/{id}/payments', { params: { path: { id } } }))
export const cancelOrder = (id: string, reason: string, key: string) =>
  of(() => api.POST('/v1/orders/{id}/cancellation', { params: { path: { id }, header: { 'Idempotency-Key': key } }, body: { reason } }))
export const refundOrder = (id: string, reason: string, key: string) =>
  of(() => api.POST('/v1/orders/{id}/refund', { params: { path: { id }, header: { 'Idempotency-Key': key } }, body: { reason } }))
export const refundPayment = (id: string, reason: string, key: string) =>
  of(() => api.POST('/v1/payments/{id}/refund', { params: { path: { id }, header: { 'Idempotency-Key': key } }, body: { reason } }))
export const shipOrder = (id: string, body: S['OrderShipRequest'], key: string) =>
  of(() => api.POST('/v1/orders/{id}/shipment', { params: { path: { id }, header: { 'Idempotency-Key': key } }, body }))
export const completeOrder = (id: string, key: string) =>
  of(() => api.POST('/v1/orders/{id}/completion', { params: { path: { id }, header: { 'Idempotency-Key': key } } }))

// ---- people, and what they may ----

export type User = S['IdentityUserView']
export type Role = S['AccessRoleView']
export type Resource = S['AccessResourceView']
export type Session = S['IdentitySessionView']
export type Token = S['IdentityPersonalView']

const at = (id: string) => ({ params: { path: { id } } })
export const listUsers = (q: { name?: string; role?: string; after?: string; limit?: number }) => of(() => api.GET('/v1/users', { params: { query: q } }))
export const getUser = (id: string) => of(() => api.GET('/v1/users/{id}', at(id)))
export const createUser = (body: S['CreateUserRequest']) => of(() => api.POST('/v1/users', { body }))
export const setRoles = (id: string, roles: string[]) => of(() => api.PUT('/v1/users/{id}/roles', { ...at(id), body: { roles } }))
export const disableUser = (id: string, reason: string) => of(() => api.POST('/v1/users/{id}/disable', { ...at(id), body: { reason } }))
export const enableUser = (id: string) => of(() => api.POST('/v1/users/{id}/enable', at(id)))
/** Makes a link that is good once, for an hour. */
export const createPasswordReset = (id: string) => of(() => api.POST('/v1/users/{id}/password-resets', at(id)))
export const listUserSessions = (id: string) => of(() => api.GET('/v1/users/{id}/sessions', at(id))).then((b) => b.items)
export const endUserSession = (id: string, session: string) => done(() => api.DELETE('/v1/users/{id}/sessions/{session}', { params: { path: { id, session } } }))
/** Ends all sessions and personal access tokens of an account. */
export const endUserSessions = (id: string) => of(() => api.DELETE('/v1/users/{id}/sessions', at(id))).then((b) => b.sessions_ended)
/** Takes the second factors of another account away and ends its sessions and tokens. */
export const resetFactors = (id: string) => of(() => api.DELETE('/v1/users/{id}/factors', at(id))).then((b) => b.sessions_ended)
export const getPermissions = (id: string) => of(() => api.GET('/v1/users/{id}/permissions', at(id)))

export const listRoles = () => of(() => api.GET('/v1/roles')).then((b) => b.items)
export const createRole = (name: string, label: string) => of(() => api.POST('/v1/roles', { body: { name, label } }))
export const changeRole = (role: string, label: string) => of(() => api.PATCH('/v1/roles/{role}', { params: { path: { role } }, body: { label } }))
export const removeRole = (role: string) => done(() => api.DELETE('/v1/roles/{role}', { params: { path: { role } } }))
export const listResources = () => of(() => api.GET('/v1/resources')).then((b) => b.items)
const cell = (name: string, role: string) => ({ params: { path: { name, role } } })
export const grant = (resource: string, role: string) => of(() => api.PUT('/v1/resources/{name}/roles/{role}', cell(resource, role)))
export const revoke = (resource: string, role: string) => of(() => api.DELETE('/v1/resources/{name}/roles/{role}', cell(resource, role)))
export const explainAccess = (user: string, resource: string) => of(() => api.GET('/v1/access/explanation', { params: { query: { user, resource } } }))
export const importPolicy = (policy: string, dry: boolean) => of(() => api.POST('/v1/access/policy-imports', { body: { policy, dry_run: dry } }))
export type PolicyImport = Awaited<ReturnType<typeof importPolicy>>

// ---- oneself ----

export const listSessions = () => of(() => api.GET('/v1/sessions')).then((b) => b.items)
export const endSession = (id: string) => done(() => api.DELETE('/v1/sessions/{id}', at(id)))
export const endOtherSessions = () => of(() => api.DELETE('/v1/sessions')).then((b) => b.sessions_ended)
/** Other sessions of the account end. */
export const changePassword = (current: string, password: string) => of(() => api.PUT('/v1/me/password', { body: { current, password } }))
export const listTokens = () => of(() => api.GET('/v1/me/tokens')).then((b) => b.items)
/** Its answer is the only one that has the token itself. */
export const createToken = (body: S['CreateMyTokenRequest']) => of(() => api.POST('/v1/me/tokens', { body }))
export const revokeToken = (id: string) => done(() => api.DELETE('/v1/me/tokens/{id}', at(id)))

// ---- second factors ----

export type Factors = S['GetFactorsResponse']
export type Passkey = S['FactorPasskeyView']
export type Enrolment = S['FactorEnrolmentView']
export const getFactors = () => of(() => api.GET('/v1/me/factors'))
/** A secret for an application; it counts once a code of it was confirmed. */
export const beginTOTP = () => of(() => api.POST('/v1/me/totp'))
/** Resolves to recovery codes, where it is the first factor. They are shown this once. */
export const confirmTOTP = (challenge: string, code: string) => of(() => api.POST('/v1/me/totp/confirmation', { body: { challenge, code } })).then((b) => b.recovery_codes)
export const removeTOTP = () => done(() => api.DELETE('/v1/me/totp'))
/** Ten new ones; those of before are good no more. */
export const renewRecoveryCodes = () => of(() => api.POST('/v1/me/recovery-codes')).then((b) => b.recovery_codes)
/** Has the browser make a passkey and the house keep it. Resolves to recovery codes as confirmTOTP does. */
export async function addPasskey(name: string): Promise<string[]> {
  const asked = await of(() => api.POST('/v1/me/passkeys/options'))
  const credential = await makePasskey(asked.public_key)
  return of(() => api.POST('/v1/me/passkeys', { body: { challenge: asked.challenge, name, credential } })).then((b) => b.recovery_codes)
}
export const removePasskey = (id: string) => done(() => api.DELETE('/v1/me/passkeys/{id}', at(id)))
/** Proves again that it is oneself: the session may do what is dangerous for some minutes. */
export const stepUp = (body: S['StepUpRequest']) => done(() => api.POST('/v1/me/step-up', { body }))
export async function stepUpByPasskey(): Promise<void> {
  const asked = await of(() => api.POST('/v1/me/step-up/options'))
  await stepUp({ challenge: asked.challenge, assertion: await usePasskey(asked.public_key) })
}

/** The operations that the server describes, with the category by which a token's scope names them. */
export const listOperations = (): Promise<{ id: string; category: string; reads: boolean }[]> =>
  ask(async () => {
    let response: Response
    try {
      response = await fetch('/v1/openapi.json', { signal: AbortSignal.timeout(20_000) })
    } catch (e) {
      throw new Problem(0, 'unreachable', e instanceof Error ? e.message : String(e))
    }
    if (!response.ok) throw await problemOf(response)
    const { paths } = (await response.json()) as { paths: Record<string, Record<string, { operationId?: string; tags?: string[] }>> }
    return Object.values(paths).flatMap((methods) => Object.entries(methods).flatMap(([method, o]) => (o.operationId ? [{ id: o.operationId, category: o.tags?.[0] ?? '', reads: method === 'get' }] : [])))
  })

// ---- limits and keys ----

export type Limit = S['ThrottleLimitView']
const named = (name: string) => ({ params: { path: { name } } })
export const listLimits = () => of(() => api.GET('/v1/limits')).then((b) => b.items)
export const getLimit = (name: string) => of(() => api.GET('/v1/limits/{name}', named(name)))
/** Changes a limit that was read by itself; 412 when somebody has changed it since. */
export const setLimit = (seen: Limit, rate: string) =>
  of(() => api.PUT('/v1/limits/{name}', { params: { path: { name: seen.name }, header: ifAsSeen(seen) }, body: { rate } }))
export const resetLimit = (name: string) => of(() => api.DELETE('/v1/limits/{name}', named(name)))

export type Key = S['TokenKeyView']
export const listKeys = () => of(() => api.GET('/v1/signing-keys')).then((b) => b.items)
export const rollKey = (body: S['RollSigningKeyRequest']) => of(() => api.POST('/v1/signing-keys', { body }))
export const retireKey = (kid: string, withdraw: boolean) => of(() => api.POST('/v1/signing-keys/{kid}/retire', { params: { path: { kid } }, body: { withdraw } }))

// ---- audit ----

export const listAudit = (q: { actor?: string; subject?: string; action?: string; address?: string; from?: string; before?: string; after?: string; limit?: number }) =>
  of(() => api.GET('/v1/audit', { params: { query: q } }))
export type Verification = S['VerifyAuditResponse']
export const verifyAudit = (q: { after: number; head?: string }) => of(() => api.GET('/v1/audit/verification', { params: { query: q } }))
export const auditExportUrl = (format: 'ndjson' | 'csv'): string => `/v1/audit/export${query({ format })}`

// ---- webhooks ----

export type Webhook = S['NotifyWebhookView']
export type Delivery = S['NotifyDeliveryView']
/** The description leaves out what this body takes from the list's one. */
export type WholeDelivery = Delivery & S['GetDeliveryResponse']
export type WebhookText = Required<S['CreateWebhookRequest']>

export const listWebhooks = () => of(() => api.GET('/v1/webhooks'))
export const getWebhook = (id: string) => of(() => api.GET('/v1/webhooks/{id}', at(id)))
export const createWebhook = (body: WebhookText) => of(() => api.POST('/v1/webhooks', { body }))
/** Changes a webhook that was read; 412 when somebody has changed it since. */
export const changeWebhook = (seen: Webhook, body: S['NotifyWebhookPatch']) =>
  of(() => api.PATCH('/v1/webhooks/{id}', { params: { path: { id: seen.id }, header: ifAsSeen(seen) }, body }))
export const deleteWebhook = (id: string) => done(() => api.DELETE('/v1/webhooks/{id}', at(id)))
export const rotateSecret = (id: string) => of(() => api.POST('/v1/webhooks/{id}/secrets', at(id)))
export const pingWebhook = (id: string) => of(() => api.POST('/v1/webhooks/{id}/pings', at(id)))
export const listDeliveries = (id: string, q: { state?: Delivery['state']; after?: string; limit?: number }) =>
  of(() => api.GET('/v1/webhooks/{id}/deliveries', { params: { path: { id }, query: q } }))
export const getDelivery = (id: string) => of(() => api.GET('/v1/webhook-deliveries/{id}', at(id))) as unknown as Promise<WholeDelivery>
export const replayDelivery = (id: string) => of(() => api.POST('/v1/webhook-deliveries/{id}/replays', at(id)))
export const replayFrom = (id: string, body: S['ReplayWebhookRequest']) => of(() => api.POST('/v1/webhooks/{id}/replays', { ...at(id), body }))

// ---- the machinery, for administrators ----

export type Schedule = S['OpsScheduleView']
export type Job = S['OpsJobView']
export type JobState = Job['state']
export type Queue = S['GetJobQueueResponse']
export type Listeners = Awaited<ReturnType<typeof listListeners>>
export type Listener = S['OpsListenerView']
export type Parked = S['OpsParkedView']
export type ScheduleTerms = S['OpsTerms']

export const listSchedules = (q: { prefix?: string; state?: Schedule['state']; after?: string; limit?: number }) => of(() => api.GET('/v1/schedules', { params: { query: q } }))
export const getSchedule = (name: string) => of(() => api.GET('/v1/schedules/{name}', named(name)))
export const createSchedule = (body: S['CreateScheduleRequest']) => of(() => api.POST('/v1/schedules', { body }))
/** Changes a schedule that was read; 412 when somebody has changed it since. */
export const changeSchedule = (seen: Schedule, body: ScheduleTerms) =>
  of(() => api.PATCH('/v1/schedules/{name}', { params: { path: { name: seen.name }, header: ifAsSeen(seen) }, body }))
export const removeSchedule = (name: string) => done(() => api.DELETE('/v1/schedules/{name}', named(name)))
export const pauseSchedule = (name: string) => of(() => api.POST('/v1/schedules/{name}/pause', named(name)))
export const resumeSchedule = (name: string, from: 'now' | 'pause') => of(() => api.POST('/v1/schedules/{name}/resume', { ...named(name), body: { from } }))
export const runSchedule = (name: string) => of(() => api.POST('/v1/schedules/{name}/runs', named(name)))
export const explainTrigger = (text: string, limit: number) => of(() => api.GET('/v1/triggers', { params: { query: { text, limit } } }))

export const jobStates = ['waiting', 'later', 'running', 'dead', 'done', 'cancelled'] as const
export const getQueue = () => of(() => api.GET('/v1/job-queue'))
export const pauseJobs = (what: 'pool' | 'kind', name: string) => done(() => api.PUT('/v1/job-queue/pauses/{what}/{name}', { params: { path: { what, name } } }))
export const resumeJobs = (what: 'pool' | 'kind', name: string) => done(() => api.DELETE('/v1/job-queue/pauses/{what}/{name}', { params: { path: { what, name } } }))
export const listJobs = (q: { state?: JobState; kind?: string; pool?: string; source?: string; after?: string; limit?: number }) => of(() => api.GET('/v1/jobs', { params: { query: q } }))
export const getJob = (id: string) => of(() => api.GET('/v1/jobs/{id}', at(id)))
export const cancelJob = (id: string) => done(() => api.POST('/v1/jobs/{id}/cancellation', at(id)))
export const retryJob = (id: string) => done(() => api.POST('/v1/jobs/{id}/retry', at(id)))

export const listListeners = () => of(() => api.GET('/v1/event-listeners'))
export const forgetListener = (listener: string) => done(() => api.DELETE('/v1/event-listeners/{listener}', { params: { path: { listener } } }))
export const replayEvents = (listener: string, since?: string) => of(() => api.POST('/v1/event-listeners/{listener}/replay', { params: { path: { listener } }, body: { ...(since && { since }) } }))
export const listParked = (listener: string, after?: string) => of(() => api.GET('/v1/parked-events', { params: { query: { listener, after, limit: 20 } } }))
export const retryParked = (listener: string, event: string) => done(() => api.POST('/v1/parked-events/{listener}/{event}/retry', { params: { path: { listener, event } } }))
export const discardParked = (listener: string, event: string) => done(() => api.DELETE('/v1/parked-events/{listener}/{event}', { params: { path: { listener, event } } }))
