// What the server refused, put to words.
import { Problem, type Refused } from '@levee/shared'
import { i18n, name, t } from '../lang'

/** Any thrown thing as a Problem. */
export const asProblem = (e: unknown): Problem => (e instanceof Problem ? e : new Problem(-1, 'internal', e instanceof Error ? e.message : String(e)))

/** What happened, in the language of the page. */
export const headline = (p: Problem): string =>
  i18n.global.te(`problems.${p.code}`) ? name('problems', p.code) : p.message || t('problem.other', { status: p.status })

/** One refused field, in words. */
export const refusal = (f: Refused): string =>
  f.given === '' ? t('problem.allowed', { allowed: f.allowed }) : t('problem.allowedGiven', { allowed: f.allowed, given: f.given })
