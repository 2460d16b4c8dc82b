// The two languages. Words are typed: what is missing in one of them does not compile.
import { shallowRef } from 'vue'
import { createI18n } from 'vue-i18n'
import type { Language } from 'element-plus/es/locale/index'
import type { Words } from './words/en'
import { keep, kept } from './theme'

export const languages = ['en', 'zh'] as const
export type Lang = (typeof languages)[number]

/** All paths to a text within W: sales.phase.open */
type Path<W> = { [K in keyof W & string]: W[K] extends string ? K : `${K}.${Path<W[K]>}` }[keyof W & string]
export type Word = Path<Words>

const i18n = createI18n({ legacy: false, locale: 'en', fallbackLocale: 'en', messages: {} as Record<string, Words>, missingWarn: false, fallbackWarn: false })
export { i18n }

/** The words of Element Plus itself. */
export const elementWords = shallowRef<Language>()

/** The language's name for numbers and dates. */
export const locale = (): string => (i18n.global.locale.value === 'zh' ? 'zh-CN' : 'en-GB')
export const lang = (): Lang => i18n.global.locale.value as Lang

export async function setLang(to: Lang): Promise<void> {
  const [words, element] =
    to === 'zh'
      ? await Promise.all([import('./words/zh').then((m) => m.zh), import('element-plus/es/locale/lang/zh-cn').then((m) => m.default)])
      : await Promise.all([import('./words/en').then((m) => m.en), import('element-plus/es/locale/lang/en').then((m) => m.default)])
  i18n.global.setLocaleMessage(to, words)
  elementWords.value = element
  i18n.global.locale.value = to
  document.documentElement.lang = to === 'zh' ? 'zh-CN' : 'en'
  keep('language', to)
}

export function firstLang(): Lang {
  const was = kept('language')
  return languages.find((l) => l === was) ?? (navigator.languages.some((l) => l.startsWith('zh')) ? 'zh' : 'en')
}

const shown = (named: Record<string, string | number>): Record<string, string> =>
  Object.fromEntries(Object.entries(named).map(([k, v]) => [k, typeof v === 'number' ? new Intl.NumberFormat(locale()).format(v) : v]))

/** A text by its path. What stands for {name} is put in as text, numbers as the language writes them. */
export const t = (word: Word, named: Record<string, string | number> = {}): string => i18n.global.t(word, shown(named))

/** The text for a value that the server may extend: an unknown one is shown as it is. */
export function name(under: string, value: string, named: Record<string, string | number> = {}): string {
  const path = `${under}.${value}`
  return i18n.global.te(path) ? i18n.global.t(path, shown(named)) : value
}
