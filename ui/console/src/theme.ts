// Light, dark, or as the machine has it. Kept in this browser.
import { ref } from 'vue'

export const themes = ['auto', 'light', 'dark'] as const
export type Theme = (typeof themes)[number]

/** Reads what this browser keeps; a browser that keeps nothing is as good. */
export function kept(name: string): string | null {
  try {
    return localStorage.getItem(`levee.console.${name}`)
  } catch {
    return null
  }
}

export function keep(name: string, value: string): void {
  try {
    localStorage.setItem(`levee.console.${name}`, value)
  } catch {
    // only for this visit, then
  }
}

const was = kept('theme')
export const theme = ref<Theme>(themes.find((t) => t === was) ?? 'auto')

export function setTheme(t: Theme): void {
  theme.value = t
  document.documentElement.dataset.theme = t
  keep('theme', t)
}

setTheme(theme.value)
