//! The lab's configuration files, in keepalived's language.

use std::{fmt::Write as _, net::Ipv4Addr};

use crate::{
    lab::{INNER_VIP, Mode, VIP},
    mariadb::{CHECK_PASSWORD, CHECK_USER, PORT},
};

/// What a host's file depends on.
#[derive(Clone, Copy, Debug)]
pub struct HostConfig<'a> {
    /// lb1: state MASTER, the higher priority.
    pub first: bool,
    pub mode: Mode,
    /// Its address on the client's side.
    pub addr: Ipv4Addr,
    pub scheduler: &'a str,
    pub pool: &'a [Ipv4Addr],
}

/// The whole file.
pub fn text(host: &HostConfig<'_>) -> String {
    if host.mode == Mode::Local {
        return classic(host);
    }
    let (state, priority) = if host.first { ("MASTER", 101) } else { ("BACKUP", 99) };
    let inner = if host.mode == Mode::Nat {
        format!("\n        {INNER_VIP}/24 dev eth1   # the servers' gateway moves with the VIP")
    } else {
        String::new()
    };
    let mut text = format!(
        "! Configuration File for lbd, written by the lab

global_defs {{
    router_id {state}-LAB
}}

vrrp_instance VI_1 {{
    state {state}
    interface eth0
    virtual_router_id 51
    priority {priority}
    advert_int 1
    authentication {{
        auth_type PASS
        auth_pass 1111
    }}
    virtual_ipaddress {{
        {VIP}/24{inner}
    }}
}}

virtual_server {VIP} {PORT} {{
    delay_loop 2
    lb_algo {}{}
    lb_kind {}
    protocol TCP
",
        host.scheduler,
        // All connections of the lab come from one address.
        if host.scheduler == "mh" { "\n    mh-port" } else { "" },
        if host.mode == Mode::Nat { "NAT" } else { "DR" },
    );
    for server in host.pool {
        let _ = write!(
            text,
            "
    real_server {server} {PORT} {{
        weight 1
        MYSQL_CHECK {{
            level ping
            user {CHECK_USER}
            password {CHECK_PASSWORD}
        }}
    }}
"
        );
    }
    text.push_str("}\n");
    text
}

/// A file of the same shape as the classic dual-master tutorial's: comments after words, in
/// another script, braces that touch words.
fn classic(host: &HostConfig<'_>) -> String {
    let (state, priority) = if host.first { ("MASTER", 101) } else { ("BACKUP", 99) };
    let addr = host.addr;
    format!(
        "! Configuration File for keepalived

global_defs {{
   notification_email {{   #谁收邮件,一行一个
     dba@lab.example
     oncall@lab.example
   }}
   notification_email_from keepalived@lab.example  #发件人
   smtp_server 127.0.0.1     #邮件服务器
   smtp_connect_timeout 30    #连接超时
   router_id MASTER-HA       #本机标识
}}

vrrp_script chk_mysql_port {{      #检查数据库是否在监听
    script \"/opt/chk_mysql.sh\"   #检查脚本
    interval 2           #每两秒一次
    weight -5           #失败时降低优先级
    fall 2             #连续两次失败才算
    rise 1             #一次成功就恢复
}}

vrrp_instance VI_1 {{
    state {state}            #初始状态
    interface eth0         #网卡
    mcast_src_ip {addr}      #组播源地址
    virtual_router_id 51         #两边必须一致
    priority {priority}             #数字大的优先
    advert_int 1             #秒
    authentication {{#认证
        auth_type PASS #方式
        auth_pass 1111 #密码
    }}
    virtual_ipaddress {{#虚拟地址
        {VIP}/24         #与网卡掩码相同
    }}
    track_script {{  #检查
        chk_mysql_port
    }}
}}
"
    )
}
