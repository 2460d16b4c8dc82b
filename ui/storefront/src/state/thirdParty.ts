// Third parties through which one can sign in.
import { Problem } from '@levee/shared'
import { t } from '../words'
import { words } from '../words/problem'

/** What a third party is called: as the house says, but WeChat, where the house says nothing of its own, in the page's language. */
export const labelOf = (p: { label: string }): string => (p.label === 'WeChat' ? t('account.wechat') : p.label)

/** What a refusal means. Where the server gives a reason, its own words say more than the code does; they are in the page's language. */
export const reasoned = (e: unknown): string => (e instanceof Problem && typeof e.body.reason === 'string' ? e.message : words(e))
