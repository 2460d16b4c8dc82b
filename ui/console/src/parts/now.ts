// The moment by the server's clock, once a second, for all countdowns of the page at once.
import { onScopeDispose, ref, type Ref } from 'vue'
import { serverNow } from '@levee/shared'

const moment = ref(serverNow())
let users = 0
let timer: ReturnType<typeof setInterval> | undefined

export function useNow(): Ref<number> {
  moment.value = serverNow()
  if (users++ === 0) timer = setInterval(() => (moment.value = serverNow()), 1000)
  onScopeDispose(() => {
    if (--users === 0) clearInterval(timer)
  })
  return moment
}
