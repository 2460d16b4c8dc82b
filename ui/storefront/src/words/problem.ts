import { Problem } from '@levee/shared'
import { known, t } from '.'

/** What a refusal means, in the visitor's language; the server's own words where we have none. */
export function words(e: unknown): string {
  if (!(e instanceof Problem)) return t('problem.unknown', { detail: e instanceof Error ? e.message : String(e) })
  const word = `problem.${e.code}`
  if (known(word)) return t(word)
  if (e.status >= 500) return t('problem.unavailable')
  return t('problem.unknown', { detail: e.message })
}

export const codeOf = (e: unknown): string => (e instanceof Problem ? e.code : 'broken')
