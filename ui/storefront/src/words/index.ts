// The page's words. English is the measure: a word that Chinese lacks, or has too many, is an error of types.
import { createI18n, type MessageCompiler, type MessageFunction } from 'vue-i18n'
import type en from './en'

type Same<T> = { [K in keyof T]: T[K] extends string ? string : Same<T[K]> }
export type Words = Same<typeof en>

type Paths<T, P extends string = ''> = { [K in keyof T & string]: T[K] extends string ? `${P}${K}` : Paths<T[K], `${P}${K}.`> }[keyof T & string]
/** The name of one text, such as 'sale.buy'. */
export type Word = Paths<typeof en>

export const languages = ['en', 'zh'] as const
export type Language = (typeof languages)[number]

const load: Record<Language, () => Promise<{ default: Words }>> = { en: () => import('./en'), zh: () => import('./zh') }

/** What vue-i18n gives to a text that is shown: also <I18nT>, which puts elements among the words. */
interface Context {
  plural<T>(choices: T[]): T
  named(name: string): unknown
  interpolate(value: unknown): unknown
  normalize(parts: unknown[]): string
}

/** What a text may hold: {name}, filled in, and ' | ' between one and many. It is less than vue-i18n's own syntax, which is a third of it. */
const compile: MessageCompiler = (message) => {
  const choices = String(message)
    .split(' | ')
    .map((text) => text.split(/\{(\w+)\}/)) // words and names take turns
  const show = (ctx: Context): string => {
    const parts = choices.length > 1 ? ctx.plural(choices) : choices[0]!
    return ctx.normalize(parts.map((part, i) => (i % 2 === 0 ? part : ctx.interpolate(ctx.named(part)))))
  }
  return show as unknown as MessageFunction<string>
}

const i18n = createI18n({ legacy: false, messageCompiler: compile, locale: 'en', fallbackLocale: 'en', messages: {}, missingWarn: import.meta.env.DEV, fallbackWarn: false })
const composer = i18n.global
export { i18n }

const name = 'levee.language' // read by early.js too

export const language = (): Language => composer.locale.value as Language
/** The language as Intl and <html lang> know it. */
export const locale = (): string => (composer.locale.value === 'zh' ? 'zh-CN' : 'en-GB')

/** A text by its name. {n} in it is filled with count, by which it also chooses between one and many. */
export function t(word: Word, named: Record<string, unknown> = {}, count?: number): string {
  return count === undefined ? composer.t(word, named) : composer.t(word, { n: number(count), ...named }, { plural: count })
}

/** Whether there is such a text: for names that the server chose. */
export const known = (word: string): word is Word => composer.te(word, 'en') || composer.te(word)

const number = (n: number): string => new Intl.NumberFormat(locale()).format(n)

async function use(l: Language): Promise<void> {
  if (!composer.availableLocales.includes(l)) composer.setLocaleMessage(l, (await load[l]()).default as never)
  composer.locale.value = l
  document.documentElement.lang = l === 'zh' ? 'zh-CN' : 'en'
}

/** The language that was chosen before, else the browser's first that we have, else English. */
export async function startLanguage(): Promise<void> {
  let wish: string | null = null
  try {
    wish = localStorage.getItem(name)
  } catch {
    // the browser's, then
  }
  const wishes = [wish ?? '', ...navigator.languages].map((w) => w.slice(0, 2))
  await use(languages.find((l) => l === wishes.find((w) => (languages as readonly string[]).includes(w))) ?? 'en')
}

export async function setLanguage(l: Language): Promise<void> {
  await use(l)
  try {
    localStorage.setItem(name, l)
  } catch {
    // for this visit only
  }
}
