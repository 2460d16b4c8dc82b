import { createApp } from 'vue'
import { setClock } from '@levee/shared'
import '@levee/shared/tokens.css'
import 'element-plus/theme-chalk/base.css'
import './style.css'
import './theme'
import App from './App.vue'
import { router } from './router'
import { firstLang, i18n, setLang } from './lang'
import { failed } from './parts/failed'

void setClock()
void setLang(firstLang()).then(() => {
  const app = createApp(App)
  app.config.errorHandler = (error) => {
    console.error(error)
    failed.value = error instanceof Error ? error : new Error(String(error))
  }
  app.use(i18n).use(router).mount('#app')
})
