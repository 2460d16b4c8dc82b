// The one place where the page names a script: the policy lets it be this file and no other.
import url from './work.worker.ts?worker&url'

interface Policy {
  createScriptURL(s: string): string
}
interface Factory {
  createPolicy(name: string, rules: { createScriptURL(s: string): string }): Policy
}

const only = (s: string): string => {
  if (s !== url) throw new TypeError('not a worker of this page')
  return s
}
const factory = (globalThis as { trustedTypes?: Factory }).trustedTypes
const policy = factory?.createPolicy('levee-worker', { createScriptURL: only })

export const newWorker = (): Worker => new Worker(policy ? policy.createScriptURL(url) : url, { type: 'module' })
