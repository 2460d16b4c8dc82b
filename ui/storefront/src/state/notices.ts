// What the house tells the one who is signed in: the number at the bell, and news of his places in lines, live.
import { ref, watch as follow } from 'vue'
import { watch, type Live } from '@levee/shared'
import * as house from '../api'
import { t, known } from '../words'
import { user } from './session'
import { tell, toast } from './say'

export const unread = ref(0)
/** The newest notices; more are read by their page. */
export const newest = ref<house.Notice[]>([])
/** Whether news come by themselves at this moment. */
export const noticesLive = ref(false)

const lineListeners = new Set<(e: house.Entry) => void>()

/** Calls f with each news of a place in a line. Returns what ends that. */
export function onLine(f: (e: house.Entry) => void): () => void {
  lineListeners.add(f)
  return () => void lineListeners.delete(f)
}

const noticeListeners = new Set<(n: house.Notice) => void>()

/** Calls f with each new notice. Returns what ends that. */
export function onNotice(f: (n: house.Notice) => void): () => void {
  noticeListeners.add(f)
  return () => void noticeListeners.delete(f)
}

export function noticeText(n: house.Notice): string {
  const word = `notices.kind.${n.kind.replace('.', '-')}`
  return t(known(word) ? word : 'notices.kind.other')
}

export function noticeLink(n: house.Notice): string {
  if (n.subject.order) return `/orders/${n.subject.order}`
  return n.subject.sale ? `/sales/${n.subject.sale}` : '/notices'
}

function arrived(n: house.Notice): void {
  if (newest.value.some((o) => o.id === n.id)) return
  newest.value = [n, ...newest.value].slice(0, 20)
  unread.value++
  for (const f of noticeListeners) f(n)
  // A page that shows the subject itself says it in its own way, and his own order is no news to a buyer.
  const here = [`/orders/${n.subject.order}`, `/sales/${n.subject.sale}`, '/notices'].includes(location.pathname)
  if (!here && n.kind !== 'order.created') {
    toast(noticeText(n), 'plain', noticeLink(n))
    tell(noticeText(n))
  }
}

export async function readNewest(): Promise<void> {
  const page = await house.notices()
  newest.value = page.items
  unread.value = page.unread
}

export async function readAll(): Promise<void> {
  const first = newest.value[0]
  if (!first) return
  await house.readNotices(first.id)
  unread.value = 0
  newest.value = newest.value.map((n) => ({ ...n, read: true }))
}

let live: Live | undefined

/** Follows the account: listens while somebody is signed in. */
export function keepNotices(): void {
  follow(
    () => user.value?.id,
    (id) => {
      live?.stop()
      live = undefined
      noticesLive.value = false
      unread.value = 0
      newest.value = []
      if (!id) return
      live = watch<house.Notice | house.Entry>({
        url: house.events.notices,
        kinds: ['notice', 'line'],
        on: (kind, data) => {
          if (kind === 'notice') arrived(data as house.Notice)
          else for (const f of lineListeners) f(data as house.Entry)
        },
        read: async () => {
          await readNewest()
          return 20_000 // nobody stares at the bell
        },
        state: (is) => {
          noticesLive.value = is
        },
      })
    },
    { immediate: true },
  )
}
