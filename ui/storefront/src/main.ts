import { createApp } from 'vue'
import '@levee/shared/tokens.css'
import './base.css'
import App from './App.vue'
import { router } from './router'
import { i18n, startLanguage } from './words'
import { keepClock } from './state/now'
import { keepNotices } from './state/notices'
import { knowUser } from './state/session'

void knowUser()
void startLanguage().then(() => {
  createApp(App).use(i18n).use(router).mount('#app')
  keepClock()
  keepNotices()
  // The page that must be there at once is fetched while there is time.
  setTimeout(() => void import('./pages/SalePage.vue').catch(() => undefined), 2500)
})
