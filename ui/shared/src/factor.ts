// Second factors: what a sign-in or a dangerous act asks for, and what the browser does with passkeys.
import { Problem } from './client'

/** A sign-in that waits for its second step. */
export interface Second {
  /** Sent with the answer. It is good for one sign-in and for minutes. */
  challenge: string
  /** passkey, totp, recovery_code; or enrol alone: the house demands a factor and the account has none. */
  methods: string[]
  /** What the browser is asked with, where a passkey can be used. */
  passkey?: Record<string, unknown>
}

const data = (e: unknown, code: string): Record<string, unknown> | undefined =>
  e instanceof Problem && e.status === 401 && e.code === code ? ((e.body.data as Record<string, unknown> | undefined) ?? {}) : undefined

const texts = (v: unknown): string[] => (Array.isArray(v) ? v.filter((m): m is string => typeof m === 'string') : [])

/** What a refused sign-in waits for; undefined when it was refused for another reason. */
export function secondOf(e: unknown): Second | undefined {
  const d = data(e, 'second_factor_required')
  return d && { challenge: String(d.challenge), methods: texts(d.methods), passkey: d.passkey as Second['passkey'] }
}

/** By what a call wants to be told again who calls: passkey, totp, password; none of them means a new sign-in. Undefined for any other refusal. */
export function stepUpOf(e: unknown): string[] | undefined {
  const d = data(e, 'step_up_required')
  return d && texts(d.methods)
}

/** Whether this browser can use passkeys here: over HTTPS or on localhost, and not too old. */
export const passkeysHere = (): boolean =>
  isSecureContext && typeof PublicKeyCredential === 'function' && typeof PublicKeyCredential.parseRequestOptionsFromJSON === 'function' && typeof PublicKeyCredential.parseCreationOptionsFromJSON === 'function'

async function made(ask: () => Promise<Credential | null>): Promise<Record<string, unknown>> {
  if (!passkeysHere()) throw new Problem(-1, 'passkey_unsupported', 'this browser cannot use passkeys here')
  try {
    const credential = await ask()
    if (credential instanceof PublicKeyCredential) return credential.toJSON() as unknown as Record<string, unknown>
    throw new Problem(-1, 'passkey_cancelled', '')
  } catch (e) {
    if (e instanceof Problem) throw e
    const name = e instanceof Error ? e.name : ''
    const code = name === 'NotAllowedError' || name === 'AbortError' ? 'passkey_cancelled' : name === 'InvalidStateError' ? 'passkey_known' : 'passkey_failed'
    throw new Problem(-1, code, e instanceof Error ? e.message : String(e))
  }
}

type CreationJSON = Parameters<typeof PublicKeyCredential.parseCreationOptionsFromJSON>[0]
type RequestJSON = Parameters<typeof PublicKeyCredential.parseRequestOptionsFromJSON>[0]

/**
 * Makes a passkey; returns what the house is sent. Throws a Problem of status -1: passkey_cancelled (also when nobody answered in time, or none fits),
 * passkey_known (the device has one of this account), passkey_unsupported, passkey_failed.
 */
export const makePasskey = (options: Record<string, unknown>): Promise<Record<string, unknown>> =>
  made(() => navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(options as unknown as CreationJSON) }))

/** Proves by a passkey who one is; returns what the house is sent. Throws as makePasskey does. */
export const usePasskey = (options: Record<string, unknown>): Promise<Record<string, unknown>> =>
  made(() => navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(options as unknown as RequestJSON) }))

/** A secret in groups of four, as people read it. */
export const inFours = (secret: string): string => secret.replace(/(.{4})(?=.)/g, '$1 ')

const returnKey = 'levee.return'

/** Remembers where a sign-in through a third party leads: when it waits for a second factor, the house's answer does not say. */
export function rememberReturn(to: string): void {
  try {
    sessionStorage.setItem(returnKey, to)
  } catch {
    // it leads to the first page, then
  }
}

/** Where it leads, told once. It is checked by who goes there. */
export function recallReturn(): string | undefined {
  try {
    const to = sessionStorage.getItem(returnKey) ?? undefined
    sessionStorage.removeItem(returnKey)
    return to
  } catch {
    return undefined
  }
}
