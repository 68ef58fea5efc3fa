package tcg

// Vendors are the makers in the TCG's TPM Vendor ID Registry, by the id in TPM_PT_MANUFACTURER and
// in the EK certificate's tpmManufacturer.
var Vendors = map[string]string{
	"AMD": "AMD", "ANT": "Ant Group", "ATML": "Atmel", "BRCM": "Broadcom", "CSCO": "Cisco", "FLYS": "Flyslice Technologies",
	"ROCC": "Fuzhou Rockchip", "GOOG": "Google", "HPI": "HP Inc", "HPE": "Hewlett Packard Enterprise", "HISI": "Huawei",
	"IBM": "IBM", "IFX": "Infineon", "INTC": "Intel", "LEN": "Lenovo", "MSFT": "Microsoft", "NSM": "National Semiconductor",
	"NTZ": "Nationz", "NSG": "NSING", "NTC": "Nuvoton", "QCOM": "Qualcomm", "SMSN": "Samsung", "SECE": "SecEdge", "SNS": "Sinosun",
	"SMSC": "SMSC", "STM": "STMicroelectronics", "TXN": "Texas Instruments", "WEC": "Winbond", "SEAL": "Wisekey",
}
