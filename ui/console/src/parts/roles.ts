// What a role is called on pages: its label, the page's own word for a ready one, or else its name.
import type { Role } from '../api'
import { name } from '../lang'

export const roleWord = (role: string, all: readonly Role[] = []): string => all.find((r) => r.name === role)?.label || name('access.roles', role)
